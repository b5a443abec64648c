"""What kernels are called with in tests: numbers of several kinds, and small arguments of every operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
seeds = st.integers(0, 10_000)
dtypes = st.sampled_from(DTYPES)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def tied(generator: torch.Generator, *shape: int) -> Tensor:
    """Few different numbers, so that the k-th largest has many equals, and zeros of either sign."""
    return normal(generator, *shape).round().clamp(-1, 1)


def negative(generator: torch.Generator, *shape: int) -> Tensor:
    return -normal(generator, *shape).abs() - 1


def mixed(generator: torch.Generator, *shape: int) -> Tensor:
    """Tokens of every kind in one chunk."""
    kinds = torch.stack([kind(generator, *shape) for kind in (normal, tied, negative)])
    return kinds[torch.arange(shape[-1]) % 3, ..., torch.arange(shape[-1])].movedim(0, -1)


KINDS = [normal, tied, negative, mixed]


def dictionary(
    seed: int, kind: Callable[..., Tensor], dtype: torch.dtype, tokens: int, latents: int, d: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x (tokens, d), rows (latents, d) and bias (latents)."""
    generator = torch.Generator().manual_seed(seed)
    x, rows, bias = kind(generator, tokens, d), kind(generator, latents, d), kind(generator, latents)
    return x.to(dtype), rows.to(dtype), bias.to(dtype)


X, ROWS, BIAS, THETA = torch.ones(2, 4), torch.ones(6, 4), torch.ones(6), torch.zeros(6)
Z, VALUES, INDICES = torch.ones(2, 6), torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.int64)
