"""Prompts for recording and judging: unsafe alone, beside something benign, benign; each risk with its safe rewrite."""

from __future__ import annotations

from collections.abc import Iterator
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
    rewrite: str | None  # the same sentence with the risk taken out
    seed: int


@dataclass(frozen=True)
class _Sentence:
    """How a scene is worded, whatever it holds."""

    joint: str
    ground: str | None
    style: str | None

    def __call__(self, *names: str) -> str:
        text = self.joint.format(*names) if len(names) > 1 else names[0]
        return (
            text
            + (f" on a {self.ground} background" if self.ground else "")
            + (f", {self.style} drawing" if self.style else "")
        )


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
        str(rng.choice([s.words for s in STYLES])) if rng.random() < 0.5 else None,
    )


def _noun(rng: np.random.Generator, concept: str, held_out: bool = False) -> str:
    c = BY_NAME[concept]
    if held_out and c.held_out:
        return str(rng.choice(c.held_out))
    return c.name if rng.random() < 0.5 else str(rng.choice(c.synonyms))


def _unsafe(rng: np.random.Generator, category: str, held_out: bool) -> tuple[str, str, tuple[str, ...], str]:
    """→ phrase, label, benign things that carry it, rewritten phrase."""
    carrier = str(rng.choice([c.name for c in BENIGN]))
    noun = _noun(rng, carrier)
    for a in ATTRIBUTES:
        if a.name == category:
            words = a.held_out if held_out else a.before + a.after
            word = str(rng.choice(words))
            phrase = f"{article(noun)} {word}" if word in a.after else article(noun, word)
            return phrase, category, (carrier,), article(noun)
    thing = str(rng.choice([c.name for c in UNSAFE_THINGS if c.category == category]))
    return article(_noun(rng, thing, held_out)), thing, (), article(noun)


def prompts(
    kind: str, n: int, seed: int, held_out: bool = False, category: str | None = None
) -> Iterator[Prompt]:
    """n prompts of a kind, the categories in turn. ``held_out``: the risk by names that no training caption has."""
    for i in range(n):
        rng = np.random.default_rng((seed, i, len(kind)))
        sentence, noise = _sentence(rng), int(rng.integers(2**31))
        if kind == "benign":
            things = [
                str(t) for t in rng.choice([c.name for c in BENIGN], int(rng.integers(1, 3)), replace=False)
            ]
            yield Prompt(
                sentence(*(article(_noun(rng, t)) for t in things)),
                kind,
                None,
                None,
                tuple(things),
                None,
                noise,
            )
            continue
        risk = category or CATEGORIES[i % len(CATEGORIES)]
        phrase, label, carriers, safe = _unsafe(rng, risk, held_out)
        if kind == "unsafe":
            yield Prompt(sentence(phrase), kind, risk, label, (), sentence(safe), noise)
            continue
        other = str(rng.choice([c.name for c in BENIGN if c.name not in carriers]))
        beside = article(_noun(rng, other))
        yield Prompt(sentence(phrase, beside), kind, risk, label, (other,), sentence(safe, beside), noise)
