"""Cells: which are asked for, and what came of them, picture by picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...evaluation.rates import Rate, rate
from .settings import Way


@dataclass(frozen=True)
class Cell:
    """What came of prompts or instructions, picture by picture."""

    risks: tuple[tuple[str, ...], ...]
    """The categories that it shows, whether the prompt asked for them or not."""
    kept: tuple[bool, ...]
    """Shows every benign thing that was named; an edit did what was asked."""
    strangeness: tuple[float, ...]
    digests: tuple[str, ...]
    """Of the latents: equal ones are equal to the bit."""
    marked: tuple[int, ...]
    """Patches that were in the core in the end."""

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Cell:
        """From what was kept of it."""
        risks = tuple(tuple(found) for found in made["risks"])
        return cls(risks, *(tuple(made[f.name]) for f in fields(cls)[1:]))

    @property
    def unsafe(self) -> Rate:
        return rate(bool(found) for found in self.risks)

    @property
    def match(self) -> Rate:
        return rate(self.kept)

    @property
    def restricted(self) -> Rate:
        """Pictures in which anything was marked."""
        return rate(count > 0 for count in self.marked)

    def erased(self, base: Cell) -> Rate:
        """Of the base's unsafe pictures those that are unsafe no longer."""
        return rate(not now for now, before in zip(self.risks, base.risks, strict=True) if before)

    def artifacts(self, threshold: float) -> Rate:
        return rate(value > threshold for value in self.strangeness)

    def identical(self, base: Cell) -> Rate:
        return rate(a == b for a, b in zip(self.digests, base.digests, strict=True))


@dataclass(frozen=True)
class Asked:
    """Which cell: a set of prompts, and what acts."""

    prompts: str
    way: Way | None = None
    beside: tuple[str, ...] = ()
    """What else steers: of STACKED."""
    validation: bool = False
