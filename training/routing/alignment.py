"""How alike two descriptions of the same things are, whatever their widths: rank correlation, cosines, linear CKA."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...steering.errors import SteeringError
from ..recordings.rows import require_finite


def spearman(x: Tensor, y: Tensor) -> float:
    """Spearman's rank correlation of two lists (n), ties at their mean rank; 0 where one is constant."""
    a, b = (_ranks(values) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 0 else 0.0


def pairwise_cosines(x: Tensor) -> Tensor:
    """Cosines between all pairs of rows (n, d) → (n(n−1)/2), float64. A zero row has the cosine 0 with any."""
    unit = normalize(x.double(), dim=1)
    return (unit @ unit.T)[tuple(torch.triu_indices(len(x), len(x), offset=1))]


def semantic_alignment(differences: Tensor, text: Tensor) -> float:
    """S_sem: Spearman correlation of the pairwise cosines of Δa (n, d) with those of the text differences (n, p).

    Raises:
        SteeringError: there are fewer than three pairs, or a value is not finite.
    """
    _require_alike("semantic", differences, text)
    return spearman(pairwise_cosines(differences), pairwise_cosines(text))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """S_bind: linear centred kernel alignment of (n, d) with (n, p), 0 to 1 (Kornblith et al., 1905.00414, section 3).

    ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of the centred columns, by way of the n × n products. 0 where one side is constant.

    Raises:
        SteeringError: there are fewer than three rows, or a value is not finite.
    """
    _require_alike("binding", x, y)
    k, l = (_gram(side) for side in (x, y))
    length = float(k.norm() * l.norm())
    return max(0.0, float((k * l).sum()) / length) if length > 0 else 0.0


def mean_cosine(estimates: Sequence[Tensor]) -> float:
    """The mean cosine between all pairs of at least two directions (d)."""
    return float(pairwise_cosines(torch.stack(list(estimates))).mean())


def stability(kinds: Sequence[Sequence[Tensor]]) -> float:
    """S_stab: the mean cosine between estimates of one direction, averaged over the kinds of estimates.

    Args:
        kinds: the estimates (d) by seed, by noise level, with one source category left out; a kind with fewer than two
            says nothing and is passed over.

    Raises:
        SteeringError: no kind has two estimates, or a value is not finite.
    """
    usable = [list(kind) for kind in kinds if len(kind) > 1]
    if not usable:
        raise SteeringError(
            "routing: stability",
            expected="two estimates of a direction at least",
            found="one seed, one noise level and one risk category",
            remedy="Record with two seeds, two buckets of noise levels, or two risk categories.",
        )
    for kind in usable:
        for estimate in kind:
            require_finite(estimate, "routing: stability")
    return math.fsum(map(mean_cosine, usable)) / len(usable)


def _gram(x: Tensor) -> Tensor:
    centred = x.double() - x.double().mean(0)
    return centred @ centred.T


def _ranks(values: Tensor) -> Tensor:
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2).double()[place]


def _require_alike(term: str, x: Tensor, y: Tensor) -> None:
    if len(x) != len(y) or len(x) < 3:
        raise SteeringError(
            f"routing: {term}",
            expected="three pairs at least, the same on both sides",
            found=f"{len(x)} and {len(y)}",
            remedy="Record more unsafe prompts with their safe rewrites.",
        )
    require_finite(x, f"routing: {term}: activations")
    require_finite(y, f"routing: {term}: what they are compared with")
