"""Pre-activations of a whole dictionary, which exist for a chunk of tokens at a time, and what is kept of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch import Size, Tensor

CHUNK_BYTES = 64 << 20
"""At most so much for one chunk's pre-activations: 682 tokens of 24,576 latents in float32."""

LATENTS_AT_ONCE = 4096
"""Latents in one matrix product on the CPU."""


class Sparse(NamedTuple):
    """The latents that fire at each token, in rising order of their number."""

    values: Tensor
    """(..., C), zero after the first `counts`"""
    indices: Tensor
    """(..., C) int64, zero after the first `counts`"""
    counts: Tensor
    """(...) int64: how many fire"""


def tokens_at_once(latents: int, itemsize: int) -> int:
    """How many tokens' pre-activations fit in a chunk: a multiple of 64, or what little fits."""
    fitting = max(1, CHUNK_BYTES // max(1, latents * itemsize))
    return fitting // 64 * 64 or fitting


def pre_activations(x: Tensor, rows: Tensor, bias: Tensor) -> Generator[Tensor]:
    """p = W x + b, (T, N) for one chunk of x's tokens after another; at least one chunk, even of no token.

    A chunk lives in the memory of the one before. Every kernel that ranks a whole dictionary gets its numbers here:
    a matrix product may round by its shape, and a near-tie would then fall otherwise from one kernel to the next.

    On the CPU a chunk is a transposed view, and made in blocks of latents: the library then takes the dictionary as it
    lies in memory, instead of packing it anew for every call.
    """
    tokens, latents = x.reshape(x.shape[:-1].numel(), x.shape[-1]), rows.shape[0]
    parts = tokens.split(tokens_at_once(latents, x.element_size()))
    memory = x.new_empty(latents * len(parts[0]))
    for part in parts:
        if x.device.type == "cpu":
            pre = memory[: latents * len(part)].view(latents, len(part))  # (N, T)
            for at in range(0, latents, LATENTS_AT_ONCE):
                block = slice(at, at + LATENTS_AT_ONCE)
                torch.addmm(bias[block, None], rows[block], part.T, out=pre[block])
            yield pre.T
        else:
            yield torch.addmm(bias, part, rows.T, out=memory[: latents * len(part)].view(len(part), latents))


def padded(found: Sequence[tuple[Tensor, Tensor, Tensor]], shape: Size, capacity: int | None) -> Sparse:
    """Lists of what fires, chunk by chunk, as rectangular tensors.

    Args:
        found: values (F,) and indices (F,) of a chunk's F firings, token by token, and counts (T,).
        shape: (...) of the tokens.
        capacity: C; None takes the highest count.

    Raises:
        ValueError: more latents fire at a token than the capacity holds.
    """
    values, indices, counts = (torch.cat(part) for part in zip(*found))
    most = int(counts.max()) if counts.numel() else 0
    if capacity is not None and most > capacity:
        raise ValueError(f"capacity {capacity} is too small: {most} latents fire at one token")
    width = most if capacity is None else capacity
    token = torch.repeat_interleave(counts)
    place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[token]
    at = token * width + place
    return Sparse(
        values.new_zeros(counts.numel() * width).scatter(0, at, values).view(*shape, width),
        indices.new_zeros(counts.numel() * width).scatter(0, at, indices).view(*shape, width),
        counts.view(shape),
    )
