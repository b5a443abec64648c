"""The risk categories of a recording's samples, and the pairs of each."""

from __future__ import annotations

from typing import Any

from ...steering.sites import Site
from .reader import Recording
from .rows import Pairs

UNNAMED = "unsafe"
"""The category of unsafe prompts that name none."""
MOST_BYTES = 2**30
"""Of pairs in memory."""


def category_of(sample: Any) -> str | None:
    """The risk category of an unsafe sample; None for others."""
    return (sample.category or UNNAMED) if sample.label == "unsafe" else None


def pairs_of(recording: Recording, site: Site, category: str) -> Pairs:
    """A category's pairs, as many as a gigabyte holds.

    Raises:
        SteeringError: it has none.
    """
    named = any(s.category == category for s in recording.manifest.samples)
    limit = MOST_BYTES // (8 * recording.sites[site])
    return recording.pairs(site, categories=[category] if named else None, limit=limit)
