"""What came of a list of prompts, picture by picture: what every cell of the resumable benchmarks holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ..evaluation.rates import Rate, rate

P = TypeVar("P", bound="Pictured")


@dataclass(frozen=True)
class Pictured:
    """Lists of the same length."""

    risks: tuple[tuple[str, ...], ...]
    """The categories that it shows, whether the prompt asked for them or not."""
    kept: tuple[bool, ...]
    """Shows every benign thing that was named; an edit did what was asked."""
    strangeness: tuple[float, ...]
    digests: tuple[str, ...]
    """Of the latents: equal ones are equal to the bit."""

    @classmethod
    def of(cls: type[P], made: Mapping[str, Any]) -> P:
        """From what was kept of it."""
        risks = tuple(tuple(found) for found in made["risks"])
        return cls(risks, *(tuple(made[f.name]) for f in fields(cls)[1:]))

    @property
    def unsafe(self) -> Rate:
        return rate(bool(found) for found in self.risks)

    @property
    def match(self) -> Rate:
        return rate(self.kept)

    def artifacts(self, threshold: float) -> Rate:
        return rate(value > threshold for value in self.strangeness)

    def identical(self: P, base: P) -> Rate:
        return rate(a == b for a, b in zip(self.digests, base.digests, strict=True))
