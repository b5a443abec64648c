"""Gates of risk categories from benign and unsafe recordings: thresholds, and what they should cost and catch.

    s_c = Σ_{f ∈ H_c} w_f z_f at a token

The image gate sees the highest of a sample, the token gate each (steering/gates.py).

The image threshold is the middle of the gap where unsafe samples lie above benign ones, otherwise the benign quantile
with a margin, for a few hundred benign samples do not show the rarest. The token threshold is the quantile of benign
tokens. Either may be where counterfactual tokens cross the boundary to safe instead. The rates are of samples that had
no part in setting the threshold that judges them (cross-fitting by prompt), with Wilson's intervals. All ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...evaluation.rates import wilson
from ...steering.errors import SteeringError
from ...steering.formats.header import Category, GateThresholds, RateRecord
from ..latents.codes import Coded
from ..latents.maxima import Maxima
from .tails import UpperTail


@dataclass(frozen=True)
class GateRule:
    """How thresholds are set."""

    quantile: float = 0.999
    """Of benign samples, and of benign tokens."""
    margin: float = 1.25
    """The image threshold above that quantile, where benign and unsafe scores overlap."""
    folds: int = 5
    """Parts of the prompts that are judged by thresholds from the other parts."""

    def __post_init__(self) -> None:
        for name, fits in {
            "quantile": 0 < self.quantile <= 1,
            "margin": 1 <= self.margin < math.inf,
            "folds": self.folds >= 2,
        }.items():
            if not fits:
                raise SteeringError(
                    f"gates: {name}",
                    expected="a quantile within 0 and 1, a margin from 1, folds from 2",
                    found=f"{getattr(self, name)}",
                    remedy="Try 0.999, 1.25 and 5.",
                )


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of C categories over a recording of M samples."""

    categories: tuple[str, ...]
    samples: Maxima
    """(M, C)"""
    benign_tokens: UpperTail
    """(C)"""


def measure_scores(
    stream: Iterable[Coded],
    categories: Mapping[str, Tensor],
    benign: Tensor,
    rows: int,
    rule: GateRule = GateRule(),
) -> Scores:
    """The scores of a stream.

    Args:
        stream: codes of S latents.
        categories: the weight of each of the S latents (S) in each category, 0 where it is not one of its.
        benign: (M) bool: samples whose tokens no gate should open at.
        rows: how many tokens come at most.
    """
    weights = torch.stack(list(categories.values()), dim=1)  # (S, C)
    samples = Maxima(len(benign), len(categories))
    tokens = UpperTail(len(categories), rows, rule.quantile)
    for part in stream:
        scores = (part.z @ weights.to(part.z)).cpu()
        samples.add(scores, part.sample)
        tokens.add(scores[benign[part.sample]])
    return Scores(tuple(categories), samples, tokens)


def member_weights(
    latents: Sequence[int], of_category: Sequence[int], weights: Sequence[float] | None = None
) -> Tensor:
    """The weights (S) over these latents of a category that holds some of them; each has the weight 1 by default."""
    own = dict(zip(of_category, weights or (1.0,) * len(of_category), strict=True))
    return torch.tensor([own.get(latent, 0.0) for latent in latents])


def calibrate(
    scores: Scores,
    category: str,
    unsafe: Tensor,
    benign: Tensor,
    units: Sequence[str],
    rule: GateRule = GateRule(),
    crossing: Tensor | None = None,
) -> GateThresholds:
    """The gate of one category.

    Args:
        unsafe, benign: numbers of the samples of the category, and of those that no gate should open in.
        units: (M) the prompt or pair of each sample; those of one are judged together.
        crossing: (n) scores of counterfactual tokens at the boundary: both thresholds are their median.

    Raises:
        SteeringError: a side has samples of one prompt only, or none with tokens; names the category.
    """
    column = scores.categories.index(category)
    best, seen = scores.samples.best[:, column], scores.samples.seen
    sides: dict[str, Tensor] = {}
    for name, numbers in (("unsafe", unsafe), ("benign", benign)):
        sides[name] = numbers[seen[numbers]]
        prompts = len({units[i] for i in sides[name].tolist()})
        if prompts < 2:
            raise SteeringError(
                f"category {category!r}",
                expected=f"recorded samples of at least 2 {name} prompts, one to set a threshold and one to judge it",
                found=f"{prompts}",
                remedy=f"Record more {name} prompts.",
            )
    if crossing is not None:
        token = image = at_crossing(crossing, category)
        alarms, hits = ([bool(s > image) for s in best[sides[name]]] for name in ("benign", "unsafe"))
    else:
        token = float(scores.benign_tokens.at(rule.quantile)[column])
        image = image_threshold(best[sides["benign"]], best[sides["unsafe"]], rule)
        alarms, hits = _cross_fitted(best, sides, units, rule)
    return GateThresholds(max(token, 0.0), max(image, 0.0), _rate(alarms), _rate(hits))


def image_threshold(benign: Tensor, unsafe: Tensor, rule: GateRule) -> float:
    """A threshold between the highest scores of benign samples (n) and of unsafe ones (m), none of them empty."""
    highest = float(torch.quantile(benign.double(), rule.quantile))
    lowest = float(torch.quantile(unsafe.double(), 0.01))
    return (highest + lowest) / 2 if lowest > highest else highest * rule.margin


def at_crossing(scores: Tensor, category: str) -> float:
    """The median of the scores (n) of tokens at the crossing; a SteeringError where there are none."""
    if not len(scores):
        raise SteeringError(
            f"category {category!r}",
            expected="counterfactual tokens at the boundary",
            found="none",
            remedy="Record pairs of this category, or calibrate by quantiles.",
        )
    return float(scores.double().median())


def described(
    latents: Sequence[int], gate: GateThresholds, weights: Sequence[float] | None = None
) -> Category:
    """A category as a bundle's header holds it; by default all its latents weigh the same.

    Raises:
        SteeringError: it has no latents.
    """
    if not latents:
        raise SteeringError(
            "category",
            expected="at least one latent",
            found="none",
            remedy="Select latents with a lower ratio, train longer, or leave the category out at this site.",
        )
    return Category(tuple(latents), tuple(weights or (1.0,) * len(latents)), gate)


def _cross_fitted(
    best: Tensor, sides: Mapping[str, Tensor], units: Sequence[str], rule: GateRule
) -> tuple[list[bool], list[bool]]:
    """Whether each benign and each unsafe sample opens a gate whose threshold the other folds have set."""
    folds: dict[str, Tensor] = {}
    count = rule.folds
    for name, numbers in sides.items():
        own = [units[i] for i in numbers.tolist()]
        order = {unit: at for at, unit in enumerate(dict.fromkeys(own))}
        count = min(count, len(order))
        folds[name] = torch.tensor([order[unit] for unit in own])
    opened: dict[str, list[bool]] = {"benign": [], "unsafe": []}
    for fold in range(count):
        inside = {name: best[sides[name][folds[name] % count == fold]] for name in sides}
        outside = {name: best[sides[name][folds[name] % count != fold]] for name in sides}
        threshold = image_threshold(outside["benign"], outside["unsafe"], rule)
        for name, values in inside.items():
            opened[name] += [bool(value > threshold) for value in values]
    return opened["benign"], opened["unsafe"]


def _rate(cases: Sequence[bool]) -> RateRecord:
    found = wilson(sum(cases), len(cases))
    return RateRecord(found.value, found.low, found.high)
