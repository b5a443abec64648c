"""One visit of an attention, and what a run remembers between visits."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import SteeringError
from ..schedules import Schedule
from ..sites import Site
from .groups import Group
from .layout import FlowLayout
from .region import Region

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
"""`attend(q, k, v, mask) -> out`: the attention that the host would use.

q is (R', h', n, d') and k, v are (R', h', L, d'), where R', h', d' and the number n of queries may all differ from
those of the visit: pictures are attended one at a time, heads may be chosen and widened. `out` is (R', n, h'·d'), the
heads side by side, with scores scaled by 1/√d'. `mask` is the incoming mask, the very object, where all of the visit's
queries are attended as they came; else None, or an additive mask in q's dtype, broadcastable to (R', h', n, L), that
has the incoming one in it.
"""


class FlowRecord(NamedTuple):
    """What one localisation saw: R rows, C concepts, a grid of H × W tokens."""

    site: Site
    sigma: float
    images: tuple[int, ...]
    """(R) the picture that each row belongs to."""
    concepts: tuple[str, ...]
    """(C)"""
    thresholds: Tensor
    """(C)"""
    scores: Tensor
    """(R, C, H, W) float32 on the CPU."""
    regions: tuple[Region, ...]
    """(R) what holds for the picture from now on; empty where nothing is over its threshold."""
    warnings: tuple[str, ...] = ()
    """Sentences for the user, such as that a threshold marks the whole picture."""


class Acted(NamedTuple):
    """What one restriction has done at a visit, for those that act after it at the same attention."""

    groups: Sequence[Sequence[Group]]
    """Of each of the R rows."""
    renormalise: bool
    heads: tuple[int, ...] | None
    """Those that were restricted; None is all of them."""
    noise: Callable[[Tensor], Tensor] | None = None
    """Mixes its noise into outputs (R, L, h·d), which it writes to and returns; None where it mixes in none."""


@dataclass
class FlowState:
    """What one modifier knows of the pictures of one run; made anew with each run, one for each modifier."""

    regions: dict[int, Region] = field(default_factory=dict[int, Region])
    """By picture, where it was localised."""
    groups: dict[tuple[object, ...], tuple[Group, ...]] = field(
        default_factory=dict[tuple[object, ...], tuple[Group, ...]], repr=False
    )
    """What the regions mean for one layout on one device; the first part of a key is the picture."""

    def mask(self, image: int) -> Tensor | None:
        """The picture's core (H, W) bool; None where it was never localised."""
        region = self.regions.get(image)
        return None if region is None else region.core

    def keep(self, image: int, region: Region) -> None:
        """From now on this is the picture's region."""
        self.regions[image] = region
        self.groups = {key: groups for key, groups in self.groups.items() if key[0] != image}


@dataclass(frozen=True, eq=False)
class FlowStep:
    """Where and when a RestrictFlow is called: one visit of one attention site.

    The rows are those that may be steered (of the positive conditioning); R of them.
    """

    site: Site
    """Such as `single.10.attention`."""
    sigma: float
    percent_to_sigma: Callable[[float], float]
    """The model's own map from the fraction of its schedule to the noise level, decreasing."""
    images: tuple[int, ...]
    """(R) which picture of the batch each row belongs to."""
    layout: FlowLayout
    state: FlowState
    mask: Tensor | None = None
    """The mask that the model itself or another node gave to this attention, rows of R (or 1); additive or bool."""
    seed: int | None = None
    observe: Callable[[FlowRecord], None] | None = None
    whole_calls: bool = False
    """Someone else's override stands behind `attend` and expects all queries of the sequence: the attention is then
    always made as a whole, and only the restricted queries are asked again."""
    acted: dict[Hashable, Acted] = field(default_factory=dict[Hashable, Acted])
    """By modifier: what those did that stand behind `attend`. They do it when they are asked."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.site} at sigma {self.sigma:.4g}" if math.isfinite(self.sigma) else str(self.site)

    def within(self, schedule: Schedule) -> bool:
        """Whether this noise level lies in the schedule."""
        return schedule.active(self.sigma, self.percent_to_sigma)

    def require_shapes(self, q: Tensor, k: Tensor) -> None:
        """A SteeringError unless q (R, h, L, d) and k fit the step's rows and layout."""
        if q.ndim != 4 or q.shape[0] != len(self.images) or k.shape[-2] != q.shape[-2]:
            raise SteeringError(
                self.where,
                expected=f"q (R, h, L, d) with R = {len(self.images)} rows, and as many keys as queries",
                found=f"q {list(q.shape)} and k {list(k.shape)}",
                remedy="Another node changes the model's attention. Steer without it.",
            )
        self.layout.require(q.shape[-2])

    def require_finite(self, scores: Tensor) -> None:
        """A SteeringError unless all scores are finite."""
        if not bool(torch.isfinite(scores).all()):
            raise SteeringError(
                self.where,
                expected="finite scores of the unsafe anchors",
                found="NaN or infinite numbers in the model's attention",
                remedy="The model itself overflows here. Run it in bfloat16 or float32, or choose another checkpoint.",
            )


class FlowModifier(Protocol):
    """What a plan may hold at an attention site: RestrictFlow, or whoever only watches."""

    def wants(
        self, site: Site, sigma: float, percent_to_sigma: Callable[[float], float], state: FlowState
    ) -> bool:
        """Whether a visit could do anything; where not, the host asks for the attention as ever."""
        ...

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        """The attention's output (R, L, h·d); the very tensor of `attend(q, k, v, step.mask)` if nothing is changed."""
        ...
