"""Shares with honest intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int, z: float = 1.96) -> Rate:
    """Wilson's interval for a share: honest at 0 and 1, where the plain one has no width (Wilson 1927)."""
    if n == 0:
        return Rate(math.nan, 0.0, 1.0, 0)
    p, centre = hits / n, (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * p * (1 - p) + z * z / 4)
    # Rounding must not put the share itself outside.
    return Rate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def rate(cases: Iterable[bool]) -> Rate:
    """The share of true cases."""
    listed = list(cases)
    return wilson(sum(listed), len(listed))
