"""High quantiles of more numbers than memory holds: only the upper end of each list is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ...steering.errors import SteeringError


class UpperTail:
    """The largest numbers of C lists that grow.

    Args:
        columns: C.
        most: how many numbers each list may come to have.
        quantile: the lowest that will be asked for; what is below it is forgotten.
    """

    def __init__(self, columns: int, most: int, quantile: float) -> None:
        if not 0 < quantile <= 1:
            raise SteeringError(
                "quantile", expected="above 0, at most 1", found=f"{quantile}", remedy="Try 0.999."
            )
        self.quantile = quantile
        self.keep = int((1 - quantile) * max(most - 1, 0)) + 2
        self.largest = torch.empty(0, columns)
        """(up to keep, C), falling"""
        self.count = 0
        """Numbers of each list so far."""

    def add(self, values: Tensor) -> None:
        """Takes in values (n, C)."""
        self.count += len(values)
        together = torch.cat([self.largest, values.to(self.largest)])
        self.largest = together.topk(min(self.keep, len(together)), dim=0).values

    def at(self, quantile: float) -> Tensor:
        """The quantile (C) of each list, between two of its numbers in proportion, as `torch.quantile`.

        Raises:
            SteeringError: the lists are empty, or the quantile is lower than was said.
        """
        if not self.count or quantile < self.quantile:
            raise SteeringError(
                "quantile",
                expected=f"numbers, and a quantile from {self.quantile} to 1",
                found=f"{self.count} numbers, and {quantile}",
                remedy="Record benign prompts.",
            )
        from_top = (1 - quantile) * (self.count - 1)
        above = min(int(from_top), len(self.largest) - 1)
        below = min(above + 1, len(self.largest) - 1)
        return torch.lerp(self.largest[above].double(), self.largest[below].double(), from_top - above)
