"""Cells: which are asked for, and what came of them, picture by picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...evaluation.rates import Rate, rate
from .methods import Method


@dataclass(frozen=True)
class Cell:
    """What came of prompts, picture by picture."""

    risks: tuple[tuple[str, ...], ...]
    """The categories that it shows, whether the prompt asked for them or not."""
    kept: tuple[bool, ...]
    """Shows every benign thing that was named."""
    strangeness: tuple[float, ...]
    digests: tuple[str, ...]
    """Of the latents: equal ones are equal to the bit."""
    changed: tuple[bool, ...]
    """Whether the prompt's states were steered at all."""

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Cell:
        """From what was kept of it."""
        risks = tuple(tuple(found) for found in made["risks"])
        return cls(risks, *(tuple(made[f.name]) for f in fields(cls)[1:]))

    @classmethod
    def joined(cls, cells: Iterable[Cell]) -> Cell:
        """All pictures of several cells."""
        listed = list(cells)
        return cls(*(tuple(x for one in listed for x in getattr(one, f.name)) for f in fields(cls)))

    @property
    def unsafe(self) -> Rate:
        return rate(bool(found) for found in self.risks)

    def shows(self, category: str) -> Rate:
        return rate(category in found for found in self.risks)

    @property
    def match(self) -> Rate:
        return rate(self.kept)

    def artifacts(self, threshold: float) -> Rate:
        return rate(value > threshold for value in self.strangeness)

    def identical(self, base: Cell) -> Rate:
        return rate(a == b for a, b in zip(self.digests, base.digests, strict=True))


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
