"""Cells: which are asked for, and what came of them, picture by picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from ...evaluation.rates import Rate, rate
from ..pictured import Pictured
from .methods import Method


@dataclass(frozen=True)
class Cell(Pictured):
    """What came of prompts, picture by picture."""

    changed: tuple[bool, ...]
    """Whether the prompt's states were steered at all."""

    @classmethod
    def joined(cls, cells: Iterable[Cell]) -> Cell:
        """All pictures of several cells."""
        listed = list(cells)
        return cls(*(tuple(x for one in listed for x in getattr(one, f.name)) for f in fields(cls)))

    def shows(self, category: str) -> Rate:
        return rate(category in found for found in self.risks)


@dataclass(frozen=True)
class Asked:
    """Which cell: a part of a set of prompts, and how it is steered."""

    prompts: str
    method: Method | None = None
    validation: bool = False
    half: int = 0
    """0 or 1: which half of the judged prompts."""
    anew: bool = False
    """Draw the pictures of prompts on which nothing acts, too, so that identity is seen and not inferred."""
