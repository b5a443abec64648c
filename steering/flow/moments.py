"""Moments of attention outputs, taken in as they stream by: count, mean and scatter, in float64 and bounded memory.

Batches are joined by the pairwise update (Chan, Golub, LeVeque 1979), which loses nothing to large means and also joins
the moments of two runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Of n vectors of B blocks of width D each: covariances are kept within blocks."""

    count: int
    mean: Tensor
    """(B, D) float64"""
    scatter: Tensor
    """(B, D, D) float64: Σ (x − mean)(x − mean)ᵀ"""

    @classmethod
    def none(cls, blocks: int, width: int) -> Moments:
        return cls(
            0,
            torch.zeros(blocks, width, dtype=torch.float64),
            torch.zeros(blocks, width, width, dtype=torch.float64),
        )

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Of vectors (n, B, D)."""
        x = x.detach().to("cpu", torch.float64)
        if not len(x):
            return cls.none(x.shape[1], x.shape[2])
        mean = x.mean(0)
        away = (x - mean).transpose(0, 1)  # (B, n, D)
        return cls(len(x), mean, away.mT @ away)

    def add(self, other: Moments) -> None:
        """Takes in other vectors."""
        if not other.count:
            return
        count = self.count + other.count
        apart = other.mean - self.mean
        self.scatter += other.scatter + (self.count * other.count / count) * (
            apart[:, :, None] * apart[:, None, :]
        )
        self.mean += apart * (other.count / count)
        self.count = count
