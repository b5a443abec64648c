"""Cells: which are asked for, and what came of them, picture by picture."""

from __future__ import annotations

from dataclasses import dataclass

from ...evaluation.rates import Rate, rate
from ..pictured import Pictured
from .settings import Way


@dataclass(frozen=True)
class Cell(Pictured):
    """What came of prompts or instructions, picture by picture."""

    marked: tuple[int, ...]
    """Patches that were in the core in the end."""

    @property
    def restricted(self) -> Rate:
        """Pictures in which anything was marked."""
        return rate(count > 0 for count in self.marked)

    def erased(self, base: Cell) -> Rate:
        """Of the base's unsafe pictures those that are unsafe no longer."""
        return rate(not now for now, before in zip(self.risks, base.risks, strict=True) if before)


@dataclass(frozen=True)
class Asked:
    """Which cell: a set of prompts, and what acts."""

    prompts: str
    way: Way | None = None
    beside: tuple[str, ...] = ()
    """What else steers: of STACKED."""
    validation: bool = False
