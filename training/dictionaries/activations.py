"""Which latents fire at a token: TopK, BatchTopK and JumpReLU, as sparse codes.

    topk       the k largest of a token (Gao et al., 2406.04093, eq. 3)
    batchtopk  the k·B largest of a batch; at inference those above a learned threshold (Bussmann et al., 2412.06410)
    jumprelu   those above a threshold of their own, p · H(p − θ) (Rajamanoharan et al., 2407.14435, eq. 3)

The pre-activations p = W c + b of a batch are never kept whole: each chunk leaves behind the few entries that may fire.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ... import kernels
from ...kernels.chunks import pre_activations
from .ranks import ALONE, Ranks
from .sparse import Codes

LEAST = torch.finfo(torch.float32).tiny
"""Bounds are at least this: a latent that is not positive does not fire."""

SLACK = 0.9
"""How far below the last bound of a batch the next is looked for."""

DIGITS = 8
"""Bits that one round of the search for a rank settles."""


class NotFinite(ArithmeticError):
    """A number of the encoder or its input is NaN or infinite."""


def top_k(c: Tensor, rows: Tensor, bias: Tensor, k: int) -> Codes:
    """The k largest pre-activations of each token c (B, d), where they are positive; of equal ones the lowest latent.

    Raises:
        NotFinite: something is NaN or infinite.
    """
    try:
        values, indices = kernels.encode_topk(c, rows, bias, k)
    except ValueError as reason:
        raise NotFinite(str(reason)) from reason
    fires = values > 0
    token = torch.arange(len(c), device=c.device)[:, None].expand_as(indices)
    return Codes(token[fires], indices[fires], values[fires].float())


class BatchTopK:
    """The ``k`` · B largest of all pre-activations of a batch, over all processes; equal ones at the bound all fire.

    Remembers the last bound, because the next is near it. What it remembers never changes the result.
    """

    def __init__(self, k: int, ranks: Ranks = ALONE) -> None:
        self.k = k
        self.ranks = ranks
        self.last: float | None = None

    def __call__(self, c: Tensor, rows: Tensor, bias: Tensor) -> tuple[Codes, float]:
        """Codes of this process's tokens c (b, d), and the smallest value that fires anywhere."""
        count = self.k * self.ranks.total(len(c))
        if self.last is None:
            guess = torch.tensor(_sampled_bound(c, rows, bias, self.k), device=c.device)
            self.last = float(self.ranks.sum(guess)) / self.ranks.world  # all processes have to look alike
        below = SLACK * self.last if math.isfinite(self.last) else LEAST  # halves of infinity would never end
        while True:
            below = max(below, LEAST)
            codes = above(c, rows, bias, torch.tensor(below, device=c.device))
            if below == LEAST or self.ranks.total(len(codes.value)) >= count:
                break
            below *= 0.5
        bound = ranked(codes.value, count, self.ranks)
        self.last = bound if math.isfinite(bound) else None  # nothing has fired
        fires = codes.value >= bound
        return Codes(*(part[fires] for part in codes)), bound


def above(c: Tensor, rows: Tensor, bias: Tensor, bound: Tensor) -> Codes:
    """Every entry of the pre-activations of c (B, d) that is at least `bound`, () or (N)."""
    parts: list[Codes] = []
    first = 0
    for pre in pre_activations(c, rows, bias):  # (T, N)
        parts.append(_found(pre, bound, first))
        first += len(pre)
    token, latent, value = (torch.cat(part) for part in zip(*parts, strict=True))
    token, order = token.sort(stable=True)
    return Codes(token, latent[order], value[order])


def firing(codes: Codes, threshold: Tensor) -> Codes:
    """The entries that are above their latent's threshold (N)."""
    fires = codes.value > threshold[codes.latent]
    return Codes(*(part[fires] for part in codes))


def ranked(values: Tensor, rank: int, ranks: Ranks = ALONE) -> float:
    """The rank-th largest (1 is the largest) of positive values (m) of all processes; the smallest if there are fewer.

    Floats above 0 are ordered as their bits are: each round counts the next bits of those that are still in question.
    Without any value, infinity.
    """
    keys = values.float().contiguous().view(torch.int32).long()
    total = ranks.total(len(keys))
    if total == 0:
        return float("inf")
    left, prefix = min(rank, total), 0
    for shift in range(32 - DIGITS, -1, -DIGITS):
        digit = (keys >> shift) & (2**DIGITS - 1)
        counts = ranks.sum(torch.bincount(digit, minlength=2**DIGITS))
        larger = counts.flip(0).cumsum(0).flip(0)  # how many have this digit or a larger one
        chosen = int((larger >= left).sum()) - 1
        left -= int(larger[chosen] - counts[chosen])
        keys = keys[digit == chosen]
        prefix |= chosen << shift
    return float(torch.tensor(prefix, dtype=torch.int32).view(torch.float32))


def _sampled_bound(c: Tensor, rows: Tensor, bias: Tensor, k: int) -> float:
    """About the value that k · B entries reach, from the first few tokens."""
    pre = torch.cat([part.flatten() for part in _few(c, rows, bias)])
    rank = min(pre.numel(), max(1, k * min(64, len(c))))
    return float(pre.float().topk(rank).values[-1])


def _few(c: Tensor, rows: Tensor, bias: Tensor) -> Iterator[Tensor]:
    return pre_activations(c[:: max(1, len(c) // 64)][:64], rows, bias)


def _found(pre: Tensor, bound: Tensor, first: int) -> Codes:
    """Entries of one chunk (T, N) that reach a bound, latent by latent; `first` is the number of its first token."""
    if pre.device.type != "cpu":
        token, latent = (pre >= bound).nonzero(as_tuple=True)
        return Codes(token + first, latent, pre[token, latent].float())
    numbers = pre.T  # (N, T), as it lies in memory
    if pre.dtype == torch.bfloat16 and bound.ndim == 0:
        # Bits order as the numbers do from 0 upwards, and numpy compares them, which torch does one at a time.
        reach = numbers.view(torch.int16).numpy() >= bound.bfloat16().view(torch.int16).numpy()
    else:
        reach = numbers.float().numpy() >= bound.float().view(-1, 1).numpy()
    place = torch.from_numpy(np.flatnonzero(reach))
    return Codes(
        place % numbers.shape[1] + first,
        torch.div(place, numbers.shape[1], rounding_mode="floor"),
        numbers.flatten()[place].float(),
    )
