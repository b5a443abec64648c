"""Pre-activations of a whole dictionary, which exist for a chunk of tokens at a time, and what is kept of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Size, Tensor

CHUNK_BYTES = 64 << 20
"""At most so much for one chunk's pre-activations: 682 tokens of 24,576 latents in float32."""

LATENTS_AT_ONCE = 4096
"""Latents in one matrix product on the CPU."""
SHOWN_AT_ONCE = 1024
"""Latents of it that a reader sees at one time: of 512 tokens in bfloat16 a megabyte, which stays in the cache."""


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


@dataclass(frozen=True, eq=False)
class Chunk:
    """The pre-activations of some tokens, on their way into memory."""

    x: Tensor
    """(T, d)"""
    rows: Tensor
    bias: Tensor
    pre: Tensor
    """(N, T), in the memory of the chunk before."""

    def blocks(self) -> Generator[int]:
        """Computes p = W x + b for some latents after others, and says how many are there: a reader who looks at them
        at once finds them in the cache. At least one block, even of no latent.

        Latents are the rows: the library then takes the dictionary as it lies, instead of packing it for each call.
        """
        for at in range(0, len(self.pre) or 1, LATENTS_AT_ONCE):
            block = slice(at, at + LATENTS_AT_ONCE)
            torch.addmm(self.bias[block, None], self.rows[block], self.x.T, out=self.pre[block])
            stop = min(block.stop, len(self.pre))
            yield from (*range(at + SHOWN_AT_ONCE, stop, SHOWN_AT_ONCE), stop)


def chunks_of(x: Tensor, rows: Tensor, bias: Tensor) -> Generator[Chunk]:
    """The pre-activations of x (..., d), a chunk of tokens after another; at least one chunk, even of no token."""
    tokens, latents = x.reshape(x.shape[:-1].numel(), x.shape[-1]), rows.shape[0]
    parts = tokens.split(tokens_at_once(latents, x.element_size()))
    memory = x.new_empty(latents * len(parts[0]))
    for part in parts:
        yield Chunk(part, rows, bias, memory[: latents * len(part)].view(latents, len(part)))


def pre_activations(x: Tensor, rows: Tensor, bias: Tensor) -> Generator[Tensor]:
    """p = W x + b, (T, N) for one chunk of x's tokens after another; at least one chunk, even of no token.

    A chunk lives in the memory of the one before. Every kernel that ranks a whole dictionary gets its numbers from
    `Chunk.blocks`: a product may round by its shape, and a near-tie would then fall otherwise from one kernel to the
    next. On other devices than processors the library's own order of work is as good.
    """
    for chunk in chunks_of(x, rows, bias):
        if x.device.type == "cpu":
            for _ in chunk.blocks():
                pass
            yield chunk.pre.T
        else:
            yield torch.addmm(bias, chunk.x, rows.T, out=chunk.pre.view(-1, rows.shape[0]))


def width_for(counts: Tensor, capacity: int | None) -> int:
    """C for tokens at which so many latents fire; waits for the device.

    Raises:
        ValueError: more latents fire at a token than the capacity holds.
    """
    most = int(counts.max()) if counts.numel() else 0
    if capacity is not None and most > capacity:
        raise ValueError(f"capacity {capacity} is too small: {most} latents fire at one token")
    return most if capacity is None else capacity


def padded(found: Sequence[tuple[Tensor, Tensor, Tensor]], shape: Size, capacity: int | None) -> Sparse:
    """Lists of what fires, chunk by chunk, as rectangular tensors.

    Args:
        found: values (F,) and indices (F,) of a chunk's F firings, token by token, and counts (T,).
        shape: (...) of the tokens.
        capacity: C, as `width_for` takes it.
    """
    values, indices, counts = (torch.cat(part) for part in zip(*found))
    width = width_for(counts, capacity)
    token = torch.repeat_interleave(counts)
    place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[token]
    at = token * width + place
    return Sparse(
        values.new_zeros(counts.numel() * width).scatter(0, at, values).view(*shape, width),
        indices.new_zeros(counts.numel() * width).scatter(0, at, indices).view(*shape, width),
        counts.view(shape),
    )
