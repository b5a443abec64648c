"""Floats as integers of their bits, which are compared many times as fast on a processor.

Taken as they are, the bits rise with the number from 0 upwards, and those of a number below 0 are below 0. `rising`
mends the order of these, which costs a pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
"""Of the dtypes that are ranked and held against thresholds so."""
BITS = {**INTEGERS, torch.float64: torch.int64}
"""Of those that are looked at."""

HOT_BYTES = 1 << 20
"""Numbers that are looked at twice are so many at a time, which stay in the cache."""


def rising(keys: Tensor) -> Tensor:
    """Integers that rise with floats of either sign, and are equal for −0 and 0, of their bits; and back again."""
    return torch.where(keys < 0, torch.iinfo(keys.dtype).min - keys, keys)


def below(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """The rising integers of the largest numbers of a dtype that are not above θ: x > θ is key(x) > below(θ).

    A single θ () is rounded to the dtype first, because torch compares with it so.
    """
    near = threshold.to(dtype)
    keys = rising(near.view(INTEGERS[dtype]))
    if threshold.dim() > 0:
        keys = keys - (near.double() > threshold.double()).to(keys.dtype)
    return torch.where(threshold.isnan(), torch.iinfo(keys.dtype).max, keys)


class Extremes:
    """Whether all numbers that were looked at are finite, by the two ends of their bits."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.infinity = int(torch.tensor(torch.inf, dtype=dtype).view(BITS[dtype]))
        self.sign = 1 << (8 * dtype.itemsize - 1)
        self.above = self.below = 0

    def look(self, keys: Any, largest: Any = None) -> None:
        """Takes notice of bits, a numpy array of integers.

        Args:
            largest: fewer integers among which the largest of them is, where these are known.
        """
        self.above = max(self.above, int((keys if largest is None else largest).max(initial=0)))
        # Taken without a sign, the bits of numbers below zero are above all others and rise with their size.
        self.below = max(self.below, int(keys.view(f"u{keys.itemsize}").max(initial=0)))

    @property
    def finite(self) -> bool:
        return self.above < self.infinity and self.below < self.infinity + self.sign
