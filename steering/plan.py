"""The ordered, immutable set of modifiers on a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from .flow.step import FlowModifier
from .modifiers import Modifier
from .schedules import Schedule
from .sites import Site


@dataclass(frozen=True, eq=False)
class Entry:
    """One modifier at one site for a part of the schedule."""

    site: Site
    modifier: Modifier | FlowModifier
    """Of tokens, or at an attention site of attention."""
    schedule: Schedule = Schedule()


@dataclass(frozen=True, eq=False)
class Plan:
    """Entries in the order in which they were added; at one site they act one after another.

    Clones of a model share a plan, so nothing in it may ever change: adding gives a new plan.
    """

    entries: tuple[Entry, ...] = ()

    def __deepcopy__(self, memo: dict[int, object]) -> Plan:
        # Older hosts copy all of a model's options with each clone, and would copy the weights too.
        return self

    def adding(self, entries: Iterable[Entry]) -> Plan:
        """This plan with entries after its own."""
        return Plan((*self.entries, *entries))

    def sites(self) -> tuple[Site, ...]:
        """Each site once, in the order of a forward pass."""
        return tuple(sorted({entry.site for entry in self.entries}))

    def active(self, sigma: float, percent_to_sigma: Callable[[float], float]) -> Plan:
        """The entries whose schedule holds this noise level."""
        return Plan(tuple(entry for entry in self.entries if entry.schedule.active(sigma, percent_to_sigma)))

    def at(self, site: Site) -> tuple[Modifier, ...]:
        """The modifiers of one site's tokens, in their order."""
        return tuple(cast("Modifier", entry.modifier) for entry in self.entries if entry.site == site)

    def flows(self) -> dict[Site, tuple[FlowModifier, ...]]:
        """The modifiers of each attention site, in their order."""
        found: dict[Site, tuple[FlowModifier, ...]] = {}
        for entry in self.entries:
            if entry.site.is_attention:
                found[entry.site] = (*found.get(entry.site, ()), cast("FlowModifier", entry.modifier))
        return found
