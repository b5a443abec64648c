"""How well a score tells two kinds apart, whatever the threshold."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def area_under_roc(
    positive: Tensor,
    negative: Tensor,
    positive_weight: Tensor | None = None,
    negative_weight: Tensor | None = None,
) -> float:
    """The chance that one of `positive` (n) scores above one of `negative` (m); equal scores count half.

    The area under the ROC curve (Mann and Whitney 1947); NaN where either is empty.

    Args:
        positive_weight, negative_weight: how often each score counts (n), (m); None is once.
    """
    if not len(positive) or not len(negative):
        return math.nan
    values, place = torch.cat([positive, negative]).unique(return_inverse=True)  # rising
    ups, downs = (torch.zeros(len(values), dtype=torch.float64, device=values.device) for _ in range(2))
    sides = (
        (ups, place[: len(positive)], positive_weight),
        (downs, place[len(positive) :], negative_weight),
    )
    for counts, at, weight in sides:
        counts.index_add_(
            0, at, torch.ones_like(at, dtype=torch.float64) if weight is None else weight.double()
        )
    below = downs.cumsum(0) - downs / 2
    return float((ups * below).sum() / (ups.sum() * downs.sum()))
