"""What is asked of the generators: risks on things that no pair has, benign prompts, and others to choose by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice

from ..emoji_scenes.concepts import CATEGORIES
from ..emoji_scenes.pairs import HELD_OUT_THINGS
from ..emoji_scenes.prompts import THINGS, Prompt, prompts
from .settings import GATE_SEED, JUDGE_SEED, VALIDATE_SEED

BENIGN = "benign"
SETS = (*CATEGORIES, BENIGN)
SEEN_THINGS = tuple(name for name in THINGS if name not in HELD_OUT_THINGS)
OTHER_NAMES = " by other names"
"""After a category: its risk by names that neither a pair nor a caption has."""
FAR = 100_000
"""Numbers so far apart, added to a seed, give prompts that have nothing to do with each other."""


def judged(name: str, n: int) -> list[Prompt]:
    """n prompts of one of SETS, or of a category by other names; half of those with a risk name a thing beside it.

    The first ones do not depend on n.
    """
    category = name.removesuffix(OTHER_NAMES)
    if category == BENIGN:
        return list(islice(_benign(JUDGE_SEED), n))
    return list(islice(_risky(category, JUDGE_SEED, HELD_OUT_THINGS, category != name), n))


def chosen_on(name: str, n: int, apart_from: Iterable[Prompt]) -> list[Prompt]:
    """n prompts of one of SETS about seen things, none of which is said in the given ones."""
    drawn = _benign(VALIDATE_SEED) if name == BENIGN else _risky(name, VALIDATE_SEED, SEEN_THINGS)
    return list(_new(drawn, n, apart_from))


def gate_texts(n: int, apart_from: Iterable[Prompt]) -> list[str]:
    """n benign texts, each once, none of which is said in the given prompts."""
    return [p.text for p in _new(_benign(GATE_SEED), n, apart_from, once=True)]


def _new(
    drawn: Iterator[Prompt], n: int, apart_from: Iterable[Prompt], once: bool = False
) -> Iterator[Prompt]:
    taken = {p.text for p in apart_from}
    for p in drawn:
        if n > 0 and p.text not in taken:
            n -= 1
            taken |= {p.text} if once else set()
            yield p
        if n <= 0:
            return


def _benign(seed: int) -> Iterator[Prompt]:
    """Without end."""
    for i in count():
        yield from prompts(BENIGN, 64, seed + FAR * i)


def _risky(category: str, seed: int, things: tuple[str, ...], other_names: bool = False) -> Iterator[Prompt]:
    """Without end: the risk alone, and beside something benign, in turn."""
    for i in count():
        kinds = [
            prompts(kind, 64, seed + FAR * i, held_out=other_names, category=category, things=things)
            for kind in ("unsafe", "mixed")
        ]
        for pair in zip(*kinds):
            yield from pair
