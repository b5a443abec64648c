"""How much each patch's attention output looks unsafe: a score from its heads' outputs O_h, h of H heads of width d.

    dot        s = 1/H Σ_h ⟨O_h, ō_h⟩ / √d              arXiv 2606.06875; its thresholds are PUBLISHED
    cosine     s = 1/H Σ_h cos(O_h − b_h, ō_h − b_h)    ours: b is the benign mean; within −1 and 1 for every model
    whitened   s = Σ_h ⟨w_h, O_h⟩ + c_h                 ours: w = Σ⁻¹(μ_u − μ_b), c = −½⟨w, μ_u + μ_b⟩; 0 lies halfway

The whitened score is Fisher's linear discriminant, in nats of log-likelihood where patches are Gaussian. The first and
the last are one matrix–vector product. With several anchors a patch has the score of the one it resembles most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from ..errors import SteeringError

PUBLISHED: Mapping[str, float] = {"nude": 0.6, "pikachu": 0.35, "blood": 0.5, "weapon": 0.3}
"""τ of the dot score for FLUX.1-dev, by concept, second-hand."""
PUBLISHED_EDITING = 0.2
"""τ of the dot score for FLUX.1-Kontext, for every concept."""
CACHED = 64
"""Patches at a time: some hundred kilobytes of float32."""


class ScoreKind(str, Enum):
    """Which score; see the module."""

    DOT = "dot"
    COSINE = "cosine"
    WHITENED = "whitened"

    @property
    def lowest(self) -> float:
        """The least score that there can be: a threshold there marks everything."""
        return -1.0 if self is ScoreKind.COSINE else -math.inf


@dataclass(frozen=True, eq=False)
class Detector:
    """One concept's score with its threshold, at one attention site.

    Raises:
        SteeringError: the threshold is not a number, or marks everything or nothing whatever comes.
    """

    concept: str
    kind: ScoreKind
    threshold: float
    """τ; a patch is marked where s >= τ."""
    probes: Tensor
    """(n, h, d) float32: anchors ō, or directions w for the whitened score; one or several."""
    offsets: Tensor | None = None
    """(n, h): c, for the whitened score."""
    centre: Tensor | None = None
    """(h, d): b, for the cosine."""
    heads: tuple[int, ...] | None = None
    """Which heads are asked; None is all of them."""

    def __post_init__(self) -> None:
        kind = ScoreKind(self.kind)
        highest = 1.0 if kind is ScoreKind.COSINE else math.inf
        if not kind.lowest < self.threshold < highest:
            raise SteeringError(
                f"threshold of {self.concept}",
                expected="a number above -1 and below 1, as a cosine is"
                if highest == 1.0
                else "a finite number",
                found=f"{self.threshold}, which marks {'everything' if self.threshold <= kind.lowest else 'nothing'}"
                if self.threshold == self.threshold
                else "NaN",
                remedy="Use the bundle's calibrated threshold, or one that divides unsafe from benign patches.",
            )
        count = self.probes.shape[1]
        if self.heads is not None and not (self.heads and set(self.heads) <= set(range(count))):
            raise SteeringError(
                f"heads of {self.concept}",
                expected=f"heads from 0 to {count - 1}",
                found=", ".join(map(str, self.heads)) or "none",
                remedy="Choose heads that the model has.",
            )

    @property
    def size(self) -> tuple[int, int]:
        """Heads, and the width of one."""
        return self.probes.shape[1], self.probes.shape[2]

    def require(self, heads: int, width: int, where: str) -> None:
        """A SteeringError unless a model's attention has as many heads, as wide."""
        if self.size != (heads, width):
            raise SteeringError(
                where,
                expected=f"{self.size[0]} heads of width {self.size[1]}, as the anchors of {self.concept} have",
                found=f"{heads} heads of width {width}",
                remedy="The anchors were collected on another model. Collect them on this one, or load its bundle.",
            )

    def score(self, outputs: Tensor) -> Tensor:
        """s of each patch (..., P), in float32.

        Args:
            outputs: (..., P, h·d), the heads side by side.
        """
        heads, width = self.size
        probes = self.probes.to(outputs.device, torch.promote_types(torch.float32, outputs.dtype))
        if self.kind is ScoreKind.COSINE:
            assert self.centre is not None
            centre = self.centre.to(probes)
            x = outputs.to(probes.dtype)
            away = x.view(*x.shape[:-1], heads, width) - centre  # (..., P, h, d)
            unit = torch.nn.functional.normalize(probes - centre, dim=-1)
            cosines = torch.einsum("...phd,nhd->...pnh", torch.nn.functional.normalize(away, dim=-1), unit)
            return (cosines if self.heads is None else cosines[..., list(self.heads)]).mean(-1).amax(-1)
        asked = probes.new_ones(heads) if self.heads is None else probes.new_zeros(heads)
        if self.heads is not None:
            asked[list(self.heads)] = 1.0
        if self.kind is ScoreKind.DOT:
            asked = asked / (asked.sum() * math.sqrt(width))
        found = _products(outputs, (probes * asked[:, None]).flatten(1).T)  # (..., P, n)
        if self.offsets is not None:
            found = found + self.offsets.to(probes) @ asked
        return found.amax(-1)


def _products(x: Tensor, w: Tensor) -> Tensor:
    """x (..., P, D) of any dtype times w (D, n), in w's dtype.

    On the CPU some rows at a time, in one piece of memory that stays in its cache while they change dtype.
    """
    if x.device.type != "cpu" or x.dtype == w.dtype:
        return x.to(w.dtype) @ w
    rows, w = x.flatten(0, -2), w.contiguous()
    found = w.new_empty(len(rows), w.shape[1])
    widened = w.new_empty(min(CACHED, len(rows)), rows.shape[1])
    for first in range(0, len(rows), CACHED):
        part = rows[first : first + CACHED]
        torch.mm(widened[: len(part)].copy_(part), w, out=found[first : first + CACHED])
    return found.view(*x.shape[:-1], w.shape[1])
