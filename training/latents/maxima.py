"""The highest value of each sample: what an image gate sees, and whether a latent fires in a picture at all."""

from __future__ import annotations

import torch
from torch import Tensor


class Maxima:
    """Running maxima of S values over the tokens of each of M samples. Values count from 0 upwards, as latents do."""

    def __init__(self, samples: int, values: int) -> None:
        self.best = torch.zeros(samples, values)
        """(M, S)"""
        self.tokens = torch.zeros(samples, dtype=torch.int64)
        """(M) how many tokens of each sample were seen; a sample without any says nothing."""

    def add(self, values: Tensor, sample: Tensor) -> None:
        """Takes in values (n, S) of tokens of these samples (n)."""
        values, sample = values.to(self.best), sample.to(self.best.device, torch.int64)
        self.best.scatter_reduce_(0, sample[:, None].expand_as(values), values, "amax")
        self.tokens += torch.bincount(sample, minlength=len(self.tokens))

    @property
    def seen(self) -> Tensor:
        """(M) bool"""
        return self.tokens > 0
