"""The kernels on processors: one matrix product, then work on what it leaves that costs a few percent of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from . import ranking
from .checks import refuse_not_finite
from .chunks import Sparse, padded, pre_activations
from .reference import add_direction, encode_selected, project_out

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

TOKENS_AT_ONCE = 64
"""Tokens steered at one time: what is between reading and writing them stays in the cache."""


def encode_topk(x: Tensor, rows: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As the reference; the pre-activations are the reference's own, so that the sets are equal."""
    kept: list[tuple[Tensor, Tensor]] = []
    for pre in pre_activations(x, rows, bias):  # (T, N), a transposed view
        refuse_not_finite(pre, x=x, rows=rows, bias=bias)
        kept.append(ranking.largest(pre.T, k))
    values, indices = (torch.cat(part).view(*x.shape[:-1], k) for part in zip(*kept))
    return values.relu_(), indices


def encode_threshold(
    x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, capacity: int | None = None
) -> Sparse:
    """As the reference."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for pre in pre_activations(x, rows, bias):  # (T, N)
        refuse_not_finite(pre, x=x, rows=rows, bias=bias)
        token, latent = np.nonzero((pre > threshold).numpy())
        token, latent = torch.from_numpy(token), torch.from_numpy(latent)
        found.append((pre[token, latent], latent, torch.bincount(token, minlength=len(pre))))
    return padded(found, x.shape[:-1], capacity)


def topk_membership(x: Tensor, rows: Tensor, bias: Tensor, selected: Tensor, k: int) -> Tensor:
    """As the reference, by looking the latents up among the k largest."""
    indices = encode_topk(x, rows, bias, k)[1].unsqueeze(-2)  # (..., 1, k)
    return (indices == selected[:, None]).any(-1)


def decode(values: Tensor, indices: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """As the reference, by the library's weighted sum of table rows."""
    tokens, k = values.shape[:-1].numel(), values.shape[-1]
    if tokens == 0 or k == 0:
        result = bias.expand(*values.shape[:-1], -1).clone()
    else:
        bags, weights = indices.reshape(tokens, k), values.reshape(tokens, k)
        total = functional.embedding_bag(bags, rows.contiguous(), mode="sum", per_sample_weights=weights)
        result = total.add_(bias).view(*values.shape[:-1], -1)
    refuse_not_finite(result, values=values, rows=rows, bias=bias)
    return result


def decode_selected(z: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """As the reference, in one pass."""
    codes = z.reshape(z.shape[:-1].numel(), rows.shape[0])
    return torch.addmm(bias, codes, rows).view(*z.shape[:-1], rows.shape[1])


def steer_selected(x: Tensor, z: Tensor, rows: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """As the reference; only tokens at which some code is not zero are computed."""
    count = x.shape[:-1].numel()
    tokens, codes = x.reshape(count, x.shape[-1]), z.reshape(count, z.shape[-1])  # (T, d), (T, S)
    at = (codes != 0).any(-1).nonzero()[:, 0]
    result = torch.empty_like(tokens) if len(at) == len(tokens) else tokens.clone()
    tiny = torch.finfo(x.dtype).tiny
    for part in at.split(TOKENS_AT_ONCE):
        token = tokens[part]
        moved = torch.addmm(token, codes[part], rows, alpha=strength)
        if keep_norm:
            # Divided first, as the ratio of the norms may overflow.
            moved.div_(moved.norm(dim=-1, keepdim=True).clamp_min_(tiny))
            moved.mul_(token.norm(dim=-1, keepdim=True))
        result[part] = moved
    return result.view(x.shape)


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
