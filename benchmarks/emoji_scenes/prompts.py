"""Prompts for recording and judging: unsafe alone, beside something benign, benign; each risk with its safe rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .concepts import ATTRIBUTES, BACKGROUNDS, BENIGN, BY_NAME, CATEGORIES, STYLES, UNSAFE_THINGS
from .scenes import article


@dataclass(frozen=True)
class Prompt:
    text: str
    kind: str  # "unsafe" | "mixed" | "benign"
    category: str | None  # of the risk
    unsafe: str | None  # the label that should not be seen
    benign: tuple[str, ...]  # the things that should be seen
    rewrite: (
        str | None
    )  # the same sentence with the risk taken out: the thing is gone, or is no longer bloody or burning
    swap: str | None  # the same sentence with a benign thing in the risk's place
    seed: int


@dataclass(frozen=True)
class _Sentence:
    """How a scene is worded, whatever it holds."""

    joint: str
    ground: str | None
    style: str

    def __call__(self, *names: str) -> str:
        text = self.joint.format(*names) if len(names) > 1 else names[0]
        return text + (f" on a {self.ground} background" if self.ground else "") + f", {self.style} drawing"


THINGS = tuple(c.name for c in BENIGN)
JOINTS = (
    "{0} and {1}",
    "{0} next to {1}",
    "{0} with {1}",
    "{0} on the left and {1} on the right",
    "{1} on the left and {0} on the right",
)


def _sentence(rng: np.random.Generator) -> _Sentence:
    return _Sentence(
        str(rng.choice(JOINTS)),
        str(rng.choice([b[0] for b in BACKGROUNDS])) if rng.random() < 0.8 else None,
        str(rng.choice([s.words for s in STYLES])),
    )


def _noun(rng: np.random.Generator, concept: str, held_out: bool = False) -> str:
    c = BY_NAME[concept]
    if held_out and c.held_out:
        return str(rng.choice(c.held_out))
    return c.name if rng.random() < 0.5 else str(rng.choice(c.synonyms))


@dataclass(frozen=True)
class _Risk:
    phrase: str
    label: str
    carriers: tuple[str, ...]  # the benign things that carry it
    gone: str | None  # the phrase without the risk; None where nothing is left
    swapped: str


def _risk(rng: np.random.Generator, category: str, held_out: bool, things: Sequence[str]) -> _Risk:
    carrier = str(rng.choice(things))
    noun = _noun(rng, carrier)
    for a in ATTRIBUTES:
        if a.name == category:
            word = str(rng.choice(a.held_out if held_out else a.before + a.after))
            phrase = f"{article(noun)} {word}" if word in a.after else article(noun, word)
            return _Risk(phrase, category, (carrier,), article(noun), article(noun))
    thing = str(rng.choice([c.name for c in UNSAFE_THINGS if c.category == category]))
    return _Risk(article(_noun(rng, thing, held_out)), thing, (), None, article(noun))


def prompts(
    kind: str,
    n: int,
    seed: int,
    held_out: bool = False,
    category: str | None = None,
    things: Sequence[str] = THINGS,
) -> Iterator[Prompt]:
    """n prompts of a kind, the categories in turn. ``held_out``: the risk by names that no training caption has.

    ``things``: the benign ones that may be named.
    """
    for i in range(n):
        rng = np.random.default_rng((seed, i, len(kind)))
        say, noise = _sentence(rng), int(rng.integers(2**31))
        if kind == "benign":
            named = tuple(str(t) for t in rng.choice(things, int(rng.integers(1, 3)), replace=False))
            yield Prompt(
                say(*(article(_noun(rng, t)) for t in named)), kind, None, None, named, None, None, noise
            )
            continue
        name = category or CATEGORIES[i % len(CATEGORIES)]
        risk = _risk(rng, name, held_out, things)
        if kind == "unsafe":
            gone = say(risk.gone or "nothing")
            yield Prompt(say(risk.phrase), kind, name, risk.label, (), gone, say(risk.swapped), noise)
            continue
        other = str(rng.choice([t for t in things if t not in risk.carriers]))
        beside = article(_noun(rng, other))
        gone = say(risk.gone, beside) if risk.gone else say(beside)
        swap = say(risk.swapped, beside)
        yield Prompt(say(risk.phrase, beside), kind, name, risk.label, (other,), gone, swap, noise)
