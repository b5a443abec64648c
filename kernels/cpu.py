"""The kernels on processors: one matrix product, then work on what it leaves that costs a few percent of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from . import reference
from .checks import refuse_by_name
from .chunks import Sparse, blocks, padded, parts_of
from .firing import Firing
from .keys import BITS, INTEGERS, Extremes
from .ranking import Ranking
from .reference import add_direction, project_out

__all__ = [
    "add_direction",
    "decode",
    "decode_selected",
    "encode_and_steer",
    "encode_selected",
    "encode_threshold",
    "encode_topk",
    "project_out",
    "steer_selected",
    "topk_membership",
]

R = TypeVar("R", Ranking, Firing)

TOKENS_AT_ONCE = 64
"""Tokens steered at one time: what is between reading and writing them stays in the cache."""
BAGS_AT_ONCE = 256
"""Tokens decoded at one time: their rows come from memory anyway."""


def encode_selected(x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    """As the reference, in the memory of the pre-activations."""
    pre = functional.linear(x, rows, bias)
    return pre.mul_(pre > threshold)


def encode_topk(x: Tensor, rows: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As the reference; the pre-activations are the reference's own, so that the sets are equal."""
    if x.dtype not in INTEGERS:
        return reference.encode_topk(x, rows, bias, k)
    read = _read(x, rows, bias, lambda tokens: Ranking(k, len(rows), tokens, x.dtype))
    kept = [ranking.largest() for ranking in read]
    values, indices = (torch.cat(part).view(*x.shape[:-1], k) for part in zip(*kept))
    return values.relu_(), indices


def encode_threshold(
    x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, capacity: int | None = None
) -> Sparse:
    """As the reference."""
    if x.dtype not in INTEGERS:
        return reference.encode_threshold(x, rows, bias, threshold, capacity)
    read = _read(x, rows, bias, lambda tokens: Firing(threshold, len(rows), tokens, x.dtype))
    return padded([firing.found() for firing in read], x.shape[:-1], capacity)


def topk_membership(x: Tensor, rows: Tensor, bias: Tensor, selected: Tensor, k: int) -> Tensor:
    """As the reference, by looking the latents up among the k largest."""
    indices = encode_topk(x, rows, bias, k)[1].unsqueeze(-2)  # (..., 1, k)
    return (indices == selected[:, None]).any(-1)


def decode(values: Tensor, indices: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """As the reference, by the library's weighted sum of table rows."""
    tokens, k = values.shape[:-1].numel(), values.shape[-1]
    weights, bags, table = values.reshape(tokens, k), indices.reshape(tokens, k), rows.contiguous()
    result, extremes = rows.new_empty(tokens, rows.shape[1]), Extremes(rows.dtype)
    for weight, bag, into in zip(*(t.split(BAGS_AT_ONCE) for t in (weights, bags, result))):
        if bag.numel() > 0:
            total = functional.embedding_bag(bag, table, mode="sum", per_sample_weights=weight)
            torch.add(total, bias, out=into)
        else:
            into.copy_(bias)
        extremes.look(into.view(BITS[into.dtype]).numpy())
    if not extremes.finite:
        refuse_by_name(rows.dtype, values=values, rows=rows, bias=bias)
    return result.view(*values.shape[:-1], rows.shape[1])


def decode_selected(z: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """As the reference, in one pass."""
    codes = z.reshape(z.shape[:-1].numel(), rows.shape[0])
    return torch.addmm(bias, codes, rows).view(*z.shape[:-1], rows.shape[1])


def steer_selected(x: Tensor, z: Tensor, rows: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """As the reference; only tokens at which some code is not zero are computed."""
    count = x.shape[:-1].numel()
    tokens, codes = x.reshape(count, x.shape[-1]), z.reshape(count, z.shape[-1])  # (T, d), (T, S)
    at = (codes != 0).any(-1).nonzero()[:, 0]
    if len(at) == count:
        result = torch.empty_like(tokens)
        for token, code, into in zip(*(t.split(TOKENS_AT_ONCE) for t in (tokens, codes, result))):
            _move(token, code, rows, strength, keep_norm, into)
    else:
        result = tokens.clone()
        for part in at.split(TOKENS_AT_ONCE):
            token = tokens[part]
            result[part] = _move(token, codes[part], rows, strength, keep_norm, torch.empty_like(token))
    return result.view(x.shape)


def _move(x: Tensor, z: Tensor, rows: Tensor, strength: float, keep_norm: bool, into: Tensor) -> Tensor:
    """Writes x + strength · z rows, with the norm of x if it is kept, of a few tokens (T, d)."""
    torch.addmm(x, z, rows, alpha=strength, out=into)
    if keep_norm:
        limits = torch.finfo(x.dtype)
        norm = torch.float32 if x.dtype == torch.float16 else x.dtype  # or a long vector's norm is infinite
        before, after = (t.norm(dim=-1, keepdim=True, dtype=norm).double() for t in (x, into))
        # Where nearly nothing is left the ratio is cut, so that zero stays zero.
        into.mul_((before / after.clamp_min_(limits.tiny)).clamp_max_(limits.max).to(x.dtype))
    return into


def encode_and_steer(
    x: Tensor,
    encoder: Tensor,
    bias: Tensor,
    threshold: Tensor,
    directions: Tensor,
    strength: float,
    keep_norm: bool = False,
) -> Tensor:
    """As the reference."""
    return steer_selected(x, encode_selected(x, encoder, bias, threshold), directions, strength, keep_norm)


def _read(x: Tensor, rows: Tensor, bias: Tensor, reader: Callable[[int], R]) -> Generator[R]:
    """What reads all pre-activations of each chunk of tokens, block by block; made for so many tokens.

    Raises:
        ValueError: some are not finite.
    """
    for part in parts_of(x, len(rows)):
        reading = reader(len(part))
        for block in blocks(part, rows, bias):
            reading.add(block)
        if not reading.extremes.finite:
            refuse_by_name(x.dtype, x=x, rows=rows, bias=bias)
        yield reading
