"""How well a direction parts held-out unsafe tokens from safe ones, and whether one does so better than another (ours).

The measure is the area under the ROC curve of −⟨a, v⟩ as a score of unsafe. Tokens of one picture are alike, so that
intervals come from a bootstrap over samples, not over tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...evaluation.rates import Rate
from ...evaluation.roc import area_under_roc
from .counterfactuals import Directions, require_pairs


@dataclass(frozen=True)
class Comparison:
    """Two directions on the same held-out pairs. Intervals are percentiles (95 %) over resampled samples."""

    plain: Rate
    weighted: Rate
    difference: Rate
    """weighted − plain, within −1 and 1."""


def compare(
    found: Directions, unsafe: Tensor, safe: Tensor, sample: Tensor, resamples: int = 500, seed: int = 0
) -> Comparison:
    """Compare plain and weighted difference-in-means on held-out pairs (n, d) of these samples (n).

    Raises:
        SteeringError: there are no pairs, or a value is not finite.
    """
    require_pairs(unsafe, safe)
    _, cluster = sample.cpu().unique(return_inverse=True)
    count = int(cluster.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(count, (resamples, count), generator=generator)
    weights = [torch.ones(len(cluster), dtype=torch.float64)]
    weights += [torch.bincount(draw, minlength=count)[cluster].double() for draw in draws]
    areas: list[Tensor] = []
    for v in found:
        scores = [-(side.double() @ v.to(side.device, torch.float64)).cpu() for side in (unsafe, safe)]
        areas.append(
            torch.tensor([area_under_roc(scores[0], scores[1], w, w) for w in weights], dtype=torch.float64)
        )
    areas.append(areas[1] - areas[0])
    rates = [_interval(values, len(cluster)) for values in areas]
    return Comparison(*rates)


def _interval(values: Tensor, n: int) -> Rate:
    """The first value, with the percentiles of the others."""
    low, high = torch.quantile(values[1:], torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    value = float(values[0])
    return Rate(value, min(low, value), max(high, value), n)
