"""RestrictFlow: finds what is unsafe in the start-up stage, and from then on restricts what flows there.

After UVR (arXiv 2606.06875). Frozen like all modifiers: what it remembers of a picture lives in the run's `FlowState`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from ..schedules import Schedule
from ..sites import Site
from .step import Attend, FlowRecord, FlowState, FlowStep, Region

__all__ = [
    "Attend",
    "Flow",
    "FlowRecord",
    "FlowState",
    "FlowStep",
    "Memory",
    "Region",
    "RestrictFlow",
    "Weights",
]


class Memory(str, Enum):
    """What becomes of a picture's region when it is localised again."""

    FIRST = "first"
    """The first localisation holds: editing, where the mask is fixed at the first step."""
    LATEST = "latest"
    """The newest one replaces it."""
    UNION = "union"
    """It grows."""


class Flow(str, Enum):
    """Which flow is restricted."""

    CONTENT = "content"
    """From everything outside the picture (text, references) to the marked patches: text-to-image."""
    REFERENCE = "reference"
    """From the references' patches at the marked places to text and picture: editing."""
    BOTH = "both"


@dataclass(frozen=True)
class Weights:
    """λ: what attention weights are multiplied by, before they are normalised again or not."""

    core: float = 0.2
    ring: float = 0.4
    safe: float = 1.05
    """From marked patches to patches of the picture that are not marked."""


@dataclass(frozen=True, eq=False)
class RestrictFlow:
    """One restriction, for all the sites at which it localises or restricts.

    A plan holds the same object at each of those sites. Its own schedules decide what it does when; the plan's
    schedule must cover both.
    """

    sites: frozenset[Site] | None = None
    """Where it restricts; None is everywhere."""
    startup: Schedule = Schedule(0.0, 0.36)
    """When it localises (and mixes in noise); 0.36 is t >= 850 of 1000 on FLUX.1-dev's schedule at 1024 × 1024."""
    active: Schedule = Schedule(0.0, 0.36)
    """When it restricts."""

    def sites_among(self, available: Collection[Site]) -> tuple[Site, ...]:
        """The attention sites at which this must be called: where it localises and where it restricts."""
        raise NotImplementedError

    def wants(
        self, site: Site, sigma: float, percent_to_sigma: Callable[[float], float], state: FlowState
    ) -> bool:
        """Whether a visit could do anything; where not, the host need not take the detour through it.

        True where it localises now, or where it restricts now and some picture has a region that is not empty.
        """
        raise NotImplementedError

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        """The attention's output (R, L, h·d).

        Args:
            attend: see `Attend`.
            q, k, v: (R, h, L, d), as they go into the attention: after the positions are rotated in.

        Returns:
            The very tensor of `attend(q, k, v, step.mask)` where nothing is restricted.

        Raises:
            SteeringError: anchors of another head count or width, scores that are not finite, a mask of another size.
        """
        raise NotImplementedError
