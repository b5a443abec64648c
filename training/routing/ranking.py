"""Where to put an autoencoder, and which operator: candidates ranked before any autoencoder is trained.

    R(ℓ, o) = 0.25 · S_sem + 0.35 · S_bind + 0.25 · S_stab − 0.15 · C          (SafeDIG, arXiv 2605.30049; second-hand)

for a site ℓ and an operator o. The terms as published cannot be computed across widths; ours are

    S_sem    Spearman correlation of the pairwise cosines of {Δa_i} with those of the pairs' text-embedding differences
    S_bind   linear CKA of {Δa_i} with the differences of the predicted clean latents at the same seed and noise level
    S_stab   mean cosine of the operator's update direction across seeds, noise levels and left-out source categories
    C        half the measured time, half the benign output change, each over its maximum

with Δa_i = a⁺ − a⁻ of pair i; every term is then put on [0, 1] by its least and greatest value among the candidates. A
ranking is a guess: `agreement` holds it against what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch

from ...steering.errors import SteeringError
from ...steering.sites import Site
from .alignment import spearman

OPERATORS = ("repel", "blend")


@dataclass(frozen=True)
class Candidate:
    """One place and one way of steering there."""

    site: Site
    operator: str
    """One of OPERATORS."""

    def __str__(self) -> str:
        return f"{self.operator} at {self.site}"


@dataclass(frozen=True)
class Terms:
    """What was measured of a candidate; None where it was not."""

    semantic: float | None = None
    """S_sem, −1 to 1"""
    binding: float | None = None
    """S_bind, 0 to 1"""
    stability: float | None = None
    """S_stab, −1 to 1"""
    seconds: float | None = None
    """What the operator adds to the making of a picture."""
    change: float | None = None
    """How far it moves the latents of benign pictures, as a share of their norm."""


@dataclass(frozen=True)
class Weights:
    """What each term counts for; the default is what the paper is reported to use."""

    semantic: float = 0.25
    binding: float = 0.35
    stability: float = 0.25
    cost: float = 0.15
    """Taken off."""


PUBLISHED = Weights()

NEEDS = {
    "semantic": ("semantic",),
    "binding": ("binding",),
    "stability": ("stability",),
    "cost": ("seconds", "change"),
}
"""The measurements behind each weight."""


@dataclass(frozen=True)
class Ranked:
    """One line of a ranking."""

    candidate: Candidate
    score: float
    """R"""
    scaled: Weights
    """Each term (cost: C) on [0, 1] among the candidates; 0 where it was not weighed."""
    terms: Terms


@dataclass(frozen=True)
class Agreement:
    """A ranking beside what was measured of its candidates."""

    spearman: float
    top_in_best_quarter: bool
    n: int


def rank(measured: Mapping[Candidate, Terms], weights: Weights = PUBLISHED) -> tuple[Ranked, ...]:
    """The candidates by falling R; equal ones in the order of a forward pass, Repel first.

    A term on which all candidates agree tells nothing and counts 0 for each.

    Raises:
        SteeringError: there is no candidate; a weight or an operator cannot be; or a term that weighs is missing or not
            finite, which is named.
    """
    if not measured:
        raise SteeringError(
            "routing", expected="at least one candidate", found="none", remedy="Choose sites and operators."
        )
    for part in fields(Weights):
        weight = getattr(weights, part.name)
        if not 0 <= weight < math.inf:
            raise SteeringError(
                f"routing: weight {part.name}",
                expected="a finite number, at least 0",
                found=f"{weight}",
                remedy="The cost is taken off already; its weight is positive as well.",
            )
    for candidate, terms in measured.items():
        _check(candidate, terms, weights)
    columns = {part: _scaled([_raw(t, part, measured) for t in measured.values()]) for part in NEEDS}
    ranked: list[Ranked] = []
    for at, (candidate, terms) in enumerate(measured.items()):
        scaled = Weights(
            **{part: column[at] if getattr(weights, part) else 0.0 for part, column in columns.items()}
        )
        gained = sum(getattr(weights, part) * getattr(scaled, part) for part in NEEDS if part != "cost")
        ranked.append(Ranked(candidate, gained - weights.cost * scaled.cost, scaled, terms))
    return tuple(sorted(ranked, key=_order))


def best_sites(ranking: Sequence[Ranked], count: int) -> tuple[Site, ...]:
    """The first ``count`` different sites of a ranking, best first."""
    return tuple(dict.fromkeys(line.candidate.site for line in ranking))[:count]


def agreement(ranking: Sequence[Ranked], gain: Mapping[Candidate, float]) -> Agreement:
    """How well R says what steering at each candidate turned out to gain (larger is better).

    Raises:
        SteeringError: the gain of a candidate is missing, or there are fewer than three.
    """
    missing = [
        str(line.candidate) for line in ranking if not math.isfinite(gain.get(line.candidate, math.nan))
    ]
    if missing or len(ranking) < 3:
        raise SteeringError(
            "routing: measured gain",
            expected="a finite gain of every candidate, three at least",
            found=f"none of {missing[0]}" if missing else f"{len(ranking)} candidates",
            remedy="Measure every candidate that was ranked.",
        )
    gains = torch.tensor([gain[line.candidate] for line in ranking], dtype=torch.float64)
    scores = torch.tensor([line.score for line in ranking], dtype=torch.float64)
    better = int((gains > gains[0]).sum())
    return Agreement(spearman(scores, gains), better < max(1.0, len(ranking) / 4), len(ranking))


def table(ranking: Sequence[Ranked]) -> str:
    """A ranking as lines of text, best first: R, then each term as measured."""
    lines = [
        f"{'':>3} {'site':<18} {'operator':<8} {'R':>6} {'S_sem':>6} {'S_bind':>6} {'S_stab':>6} {'s':>7} {'change':>8}"
    ]
    for at, line in enumerate(ranking, start=1):
        t, it = line.terms, line.candidate
        cells = [_cell(t.semantic, 6), _cell(t.binding, 6), _cell(t.stability, 6), _cell(t.seconds, 7)]
        lines.append(
            f"{at:>3} {it.site!s:<18} {it.operator:<8} {line.score:>6.3f} {' '.join(cells)} {_cell(t.change, 8)}"
        )
    return "\n".join(lines)


def _check(candidate: Candidate, terms: Terms, weights: Weights) -> None:
    if candidate.operator not in OPERATORS:
        raise SteeringError(
            f"routing: {candidate}",
            expected=f"an operator among {', '.join(OPERATORS)}",
            found=repr(candidate.operator),
            remedy="Name one of them.",
        )
    for part, needed in NEEDS.items():
        for name in needed:
            value = getattr(terms, name)
            if getattr(weights, part) and (value is None or not math.isfinite(value)):
                raise SteeringError(
                    f"routing: {candidate}: {name}",
                    expected=f"the term, as the weight {part} is not 0",
                    found="not measured" if value is None else f"{value}",
                    remedy=f"Measure it, or set the weight {part} to 0.",
                )


def _raw(terms: Terms, part: str, measured: Mapping[Candidate, Terms]) -> float:
    """A term before it is scaled; 0 where something is missing, which `_check` has allowed."""
    values = [getattr(terms, name) for name in NEEDS[part]]
    if part != "cost" or None in values:
        return 0.0 if None in values else values[0]
    highest = [max(getattr(other, name) or 0.0 for other in measured.values()) for name in NEEDS[part]]
    return sum(0.5 * value / top for value, top in zip(values, highest) if top > 0)


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _order(line: Ranked) -> tuple[float, tuple[int, int, int], int]:
    return -line.score, line.candidate.site.depth, OPERATORS.index(line.candidate.operator)


def _cell(value: float | None, width: int) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>{width}}"
