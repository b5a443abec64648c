"""Pre-activations of a whole dictionary, which exist for a chunk of tokens at a time, and what is kept of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch import Size, Tensor

CHUNK_BYTES = 64 << 20
"""At most so much for one chunk's pre-activations: 682 tokens of 24,576 latents in float32."""

LATENTS_AT_ONCE = {2: 2048, 4: 4096, 8: 4096}
"""Latents in one matrix product on the CPU, by the size of a number: in two bytes the product is so fast that reading
its numbers from beyond the core's own cache would tell."""


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


def parts_of(x: Tensor, latents: int) -> Sequence[Tensor]:
    """The tokens (T, d) of x (..., d) in chunks; at least one, even of no token."""
    tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    return tokens.split(tokens_at_once(latents, x.element_size()))


def pre_activations(x: Tensor, rows: Tensor, bias: Tensor) -> Generator[Tensor]:
    """p = W x + b, (T, N) for one chunk of x's tokens after another.

    A chunk lives in the memory of the one before. Every kernel that ranks a whole dictionary gets its numbers here or,
    block by block, where they come from (`blocks`): a product may round by its shape and by how its result lies in
    memory, and a near-tie would then fall otherwise from one kernel to the next.
    """
    latents, parts = rows.shape[0], parts_of(x, rows.shape[0])
    memory = x.new_empty(latents * len(parts[0]))
    for part in parts:
        whole = memory[: latents * len(part)]
        if x.device.type == "cpu":
            pre = whole.view(latents, len(part))
            done = 0
            for block in blocks(part, rows, bias):
                pre[done : done + len(block)] = block
                done += len(block)
            yield pre.T
        else:
            yield torch.addmm(bias, part, rows.T, out=whole.view(len(part), latents))


def blocks(x: Tensor, rows: Tensor, bias: Tensor) -> Generator[Tensor]:
    """p = W x + b of one chunk x (T, d) on the CPU, (n, T) for some latents after others.

    Latents are the rows: the library then takes the dictionary as it lies, instead of packing it for each call. Each
    block takes the place of the one before, which the cache still holds when it is read.
    """
    count = LATENTS_AT_ONCE[x.element_size()]
    memory = x.new_empty(min(count, len(rows)), len(x))
    for first in range(0, len(rows), count):
        some = slice(first, first + count)
        yield torch.addmm(bias[some, None], rows[some], x.T, out=memory[: len(rows) - first])


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
