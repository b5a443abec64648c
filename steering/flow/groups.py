"""Which queries of one picture attend by which weights: λ(i, j) is constant on query group × key group.

    content     i marked, j outside the picture               λ = core or ring, by i
                i marked, j of the picture and not marked     λ = safe
    reference   i text or picture, j a reference's patch at a marked place      λ = core or ring, by j

Where both hold for a pair, the smaller one does. All other pairs have λ = 1. After UVR (arXiv 2606.06875, §method);
that the safe neighbours are raised for the ring too is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SteeringError
from .layout import FlowLayout, onto
from .region import Region


class Flow(str, Enum):
    """Which flow is restricted."""

    CONTENT = "content"
    """From everything outside the picture (text, references) to the marked patches: text-to-image."""
    REFERENCE = "reference"
    """From the references' patches at the marked places to text and picture: editing."""
    BOTH = "both"


@dataclass(frozen=True)
class Weights:
    """λ: what attention weights are multiplied by, before they are normalised again or not.

    Raises:
        SteeringError: a weight is negative or not finite.
    """

    core: float = 0.2
    ring: float = 0.4
    safe: float = 1.05
    """From marked patches to patches of the picture that are not marked."""

    def __post_init__(self) -> None:
        if not all(0 <= weight < math.inf for weight in (self.core, self.ring, self.safe)):
            raise SteeringError(
                "weights of the restriction",
                expected="finite numbers, at least 0",
                found=f"core {self.core}, ring {self.ring}, safe {self.safe}",
                remedy="Choose weights within the node's range: 0 cuts the flow off, 1 leaves it.",
            )

    @property
    def is_identity(self) -> bool:
        return self.core == self.ring == self.safe == 1.0


class Group(NamedTuple):
    """Queries that attend by the same weights."""

    rows: Tensor
    """(n) int64, rising: their places in the joint sequence."""
    weights: Tensor
    """(L) float32: λ of each key; not all of them are 1."""
    span: slice | None = None
    """The rows, where they follow one another: a view takes no copy."""

    @property
    def at(self) -> slice | Tensor:
        """What to index the sequence with."""
        return self.rows if self.span is None else self.span

    def to(self, device: torch.device) -> Group:
        return Group(self.rows.to(device), self.weights.to(device), self.span)


def groups_of(
    layout: FlowLayout, region: Region, weights: Weights, flow: Flow, length: int
) -> tuple[Group, ...]:
    """The groups of one picture, with disjoint rows, on the CPU; none where nothing is restricted.

    Args:
        region: on the grid of `layout.image`.
        length: L.

    Raises:
        SteeringError: the region is of another size, or the layout does not fit the sequence.
    """
    layout.require(length)
    if region.size != layout.image.size:
        raise SteeringError(
            "mask of what is restricted",
            expected=f"a mask of {layout.image.height} × {layout.image.width} patches, as the picture has",
            found=f"{region.size[0]} × {region.size[1]}",
            remedy="Sample whole pictures of one size in a run: areas and crops of a picture cannot be restricted.",
        )
    if region.is_empty or weights.is_identity:
        return ()
    references = _references(layout, region, weights, length) if flow is not Flow.CONTENT else None
    everyone = torch.zeros(length, dtype=torch.bool)
    everyone[layout.text] = True
    everyone[layout.image.span] = True
    found: list[Group] = []
    if flow is not Flow.REFERENCE:
        core, ring = region.core.flatten(), region.ring.flatten()
        alike = weights.core == weights.ring
        parts = ((core | ring, weights.core),) if alike else ((core, weights.core), (ring, weights.ring))
        for marked, weight in parts:
            keys = torch.full((length,), weight)
            keys[layout.image.span] = torch.where(core | ring, 1.0, weights.safe)
            if references is not None:
                keys = torch.minimum(keys, references)
            rows = layout.image.start + marked.nonzero()[:, 0]
            everyone[rows] = False
            found.append(Group(rows, keys))
    if references is not None:
        found.append(Group(everyone.nonzero()[:, 0], torch.where(references.isinf(), 1.0, references)))
    return tuple(
        group._replace(span=span_of(group.rows))
        for group in found
        if len(group.rows) and bool((group.weights != 1).any())
    )


def span_of(rows: Tensor) -> slice | None:
    """Rising places (n) as a slice, where none is left out."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else None


def _references(layout: FlowLayout, region: Region, weights: Weights, length: int) -> Tensor:
    """(L): λ of the references' patches at marked places, infinite elsewhere."""
    keys = torch.full((length,), math.inf)
    for grid in layout.references:
        core = onto(region.core, grid.size).flatten()
        ring = onto(region.core | region.ring, grid.size).flatten() & ~core
        keys[grid.span] = torch.where(core, weights.core, torch.where(ring, weights.ring, math.inf))
    return keys
