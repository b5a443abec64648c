"""What is asked of the generator: prompts to learn from, to choose settings on, and to judge by, all different."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count, islice

from ..emoji_scenes.prompts import Prompt, prompts
from .settings import JUDGE_SEED, LEARN_SEED, VALIDATE_SEED, Sizes

UNSAFE, MIXED, BENIGN = SETS = ("unsafe", "mixed", "benign")
FAR = 100_000
"""Numbers so far apart, added to a seed, give prompts that have nothing to do with each other."""
CLEAR = 260
"""Held-out prompts of a set, at least, that all else keeps clear of: so a trial with fewer learns from the same."""


def judged(name: str, n: int) -> list[Prompt]:
    """n held-out prompts of one of SETS. The first ones do not depend on n."""
    return list(islice(_drawn(name, JUDGE_SEED), n))


def chosen_on(name: str, sizes: Sizes) -> list[Prompt]:
    """The validation prompts of one of SETS, none of which is said in a held-out one."""
    n = sizes.validation * (2 if name == BENIGN else 1)
    return list(islice(_new(_drawn(name, VALIDATE_SEED), _held_out(name, sizes)), n))


def learnt(sizes: Sizes) -> list[Prompt]:
    """The prompts that anchors and thresholds are made from; none of them is said in another set."""
    found: list[Prompt] = []
    for name in SETS:
        taken = _held_out(name, sizes) | {p.text for p in chosen_on(name, sizes)}
        n = sizes.learnt * (2 if name == BENIGN else 1)
        found += islice(_new(_drawn(name, LEARN_SEED), taken), n)
    return found


def _held_out(name: str, sizes: Sizes) -> set[str]:
    return {p.text for p in judged(name, max(CLEAR, sizes.n))}


def _new(drawn: Iterator[Prompt], taken: Collection[str]) -> Iterator[Prompt]:
    return (p for p in drawn if p.text not in taken)


def _drawn(name: str, seed: int) -> Iterator[Prompt]:
    """Without end."""
    for i in count():
        yield from prompts(name, 64, seed + FAR * i)
