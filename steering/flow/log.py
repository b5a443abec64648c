"""What a sampling run found and restricted: the last region of each picture, and one line for each look at it."""

from __future__ import annotations

from torch import Tensor

from ..sites import Site
from .region import Region, union
from .step import FlowRecord


class FlowLog:
    """Of one run. Bounded: per picture, restriction, site and noise level one line; no scores of patches."""

    def __init__(self) -> None:
        self._regions: dict[tuple[int, int], Region] = {}
        self._lines: dict[tuple[int, int, Site, float], list[str]] = {}
        self._warnings: dict[int, dict[str, None]] = {}

    def add(self, number: int, record: FlowRecord) -> None:
        """Takes a look in. `number` tells the run's restrictions apart."""
        for row, image in enumerate(record.images):
            region = record.regions[row]
            self._regions[number, image] = region
            highest = record.scores[row].flatten(1).amax(1)  # (C,)
            self._lines.setdefault((image, number, record.site, record.sigma), []).append(
                _line(record, highest, region)
            )
            self._warnings.setdefault(image, {}).update(dict.fromkeys(record.warnings))

    @property
    def is_empty(self) -> bool:
        return not self._regions

    def region(self, image: int) -> Region | None:
        """What was marked in a picture in the end, by any restriction; None where nobody looked."""
        found = [region for (_, of), region in self._regions.items() if of == image]
        return union(found) if found else None

    def lines(self, image: int) -> list[str]:
        """What was seen, in the order in which it was; then what the user should know."""
        seen = [line for (of, *_), lines in self._lines.items() if of == image for line in lines]
        return [*seen, *(f"warning: {warning}" for warning in self._warnings.get(image, ()))]


def _line(record: FlowRecord, highest: Tensor, region: Region) -> str:
    scores = ", ".join(
        f"{concept} {score:.3g} of {threshold:.3g}"
        for concept, score, threshold in zip(
            record.concepts, highest.tolist(), record.thresholds.tolist(), strict=True
        )
    )
    height, width = region.size
    marked = (
        f"{int(region.core.sum())} of {height} × {width} patches marked, {int(region.ring.sum())} around them"
    )
    return (
        f"{record.site} at sigma {record.sigma:.3g}: {scores or 'a mask was given'}; "
        f"{'nothing marked' if region.is_empty else marked}"
    )
