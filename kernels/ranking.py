"""The k largest of many numbers on a processor, exactly: of equal ones those of lowest index.

Two levels, ours after approximate methods that keep one number per group (Chern et al., 2206.14286), but exact. A
group is MEMBERS neighbours. The k-th largest of any of the groups' maxima is a bound: k numbers reach it, so every
number of the answer does, ties included, and lies in a group whose maximum does. There are few such groups, and what
reaches the bound in them is sorted by number and index.

Floats are compared as integers of their bits, which rise with them from 0 upwards; where a bound is not positive the
bits are mended first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

MEMBERS = 8
"""Numbers in a group."""
COARSE = 4
"""The bound is the k-th largest of COARSE · k maxima: fewer are found sooner and bind less."""
CROWD = 8
"""Tokens in which more than CROWD · k groups reach the bound, by ties, are sorted whole."""
AT_ONCE = 16
"""Tokens sorted whole at one time."""

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


class Ranking:
    """The k largest of each column of a matrix that is still being filled, a row after another.

    Whoever fills it says how far it is: maxima are then taken while the rows are in the cache.
    """

    def __init__(self, pre: Tensor, k: int) -> None:
        """
        Args:
            pre: (N, T), contiguous; without NaN when it is full.
            k: 1 to N.
        """
        self.pre, self.k = pre, k
        self.keys = None
        if pre.dtype in INTEGERS and pre.numel() > 0 and len(pre) // MEMBERS >= COARSE * k:
            self.keys = pre.view(INTEGERS[pre.dtype])
            self.maxima = self.keys.new_empty(len(pre) // MEMBERS, pre.shape[1])
            self.done = 0

    def filled(self, count: int) -> None:
        """The first `count` rows are there."""
        if self.keys is not None:
            before, self.done = self.done, count // MEMBERS
            _maxima(self.keys[before * MEMBERS : self.done * MEMBERS], self.maxima[before : self.done])

    def largest(self) -> tuple[Tensor, Tensor]:
        """The k largest of each column, falling, in pre's dtype, and where they are, both (T, k)."""
        if self.keys is None:
            indices = _sorted(self.pre, self.k)
        else:
            indices, bound = _searched(self.keys, self.maxima, self.k)
            low = (bound <= 0).nonzero()[:, 0]
            if len(low):
                keys = _rising(self.pre[:, low])
                maxima = _maxima(keys, keys.new_empty(len(self.maxima), len(low)))
                indices[low] = _searched(keys, maxima, self.k)[0]
        tokens = self.pre.shape[1]
        return self.pre.view(-1)[indices * tokens + torch.arange(tokens)[:, None]], indices


def largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each column of a matrix (N, T) that is full, as `Ranking.largest`."""
    ranking = Ranking(pre, k)
    ranking.filled(len(pre))
    return ranking.largest()


def _maxima(keys: Tensor, into: Tensor) -> Tensor:
    """The largest of each group of rows."""
    groups = len(into)
    return torch.amax(keys[: groups * MEMBERS].view(groups, MEMBERS, keys.shape[1]), 1, out=into)


def _rising(pre: Tensor) -> Tensor:
    """Integers that rise with floats of either sign, and are equal for −0 and 0."""
    bits = (pre + 0.0).view(INTEGERS[pre.dtype])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _searched(keys: Tensor, maxima: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Where the k largest integers of each column (N, T) are, (T, k), and the bound (T) of their groups."""
    (groups, tokens), coarse = maxima.shape, COARSE * k
    few = (
        maxima[: groups // coarse * coarse].view(-1, coarse, tokens).amax(0).T.contiguous()
    )  # (T, COARSE · k)
    bound = np.partition(few.numpy(), -k)[:, -k]  # tens of times as fast as the k largest of torch
    reach = maxima.numpy() >= bound  # torch compares into bool a number at a time
    found = np.flatnonzero(reach)
    crowd = np.empty(0, dtype=np.int64)
    if len(found) > CROWD * k * tokens:
        crowd = np.flatnonzero(reach.sum(0) > CROWD * k)
        if len(crowd):
            reach[:, crowd] = False
            found = np.flatnonzero(reach)
    indices = torch.from_numpy(_ordered(keys.numpy(), found, bound, k))
    if len(crowd):
        columns = torch.from_numpy(crowd)
        indices[columns] = _sorted(keys, k, columns)
    return indices, torch.from_numpy(bound)


def _ordered(keys: Any, found: Any, bound: Any, k: int) -> Any:
    """Where the k largest of each column are, among the groups found as places in (M, T) and what is in no group.

    A column without any group found gets zeros.
    """
    latents, tokens = keys.shape
    numbers, whole = keys.ravel(), latents // MEMBERS * MEMBERS
    group, token = np.divmod(found, tokens)
    first = group * (MEMBERS * tokens) + token  # places in (N, T)
    members = np.stack([numbers[m * tokens :].take(first) for m in range(MEMBERS)])  # (MEMBERS, F)
    member, at = np.divmod(np.flatnonzero(members >= bound[token]), max(1, len(found)))
    beyond, where = np.nonzero(keys[whole:] >= bound)
    value = np.concatenate([members[member, at], keys[whole:][beyond, where]]).astype(np.int64)
    latent = np.concatenate([group[at] * MEMBERS + member, beyond + whole])
    token = np.concatenate([token[at], where])
    # One integer says token, then rank, then index: chunks are small enough for 63 bits.
    bits = latents.bit_length()
    order = (token << (32 + bits)) | ((2**31 - 1 - value) << bits) | latent
    order.sort()
    count = np.bincount(order >> (32 + bits), minlength=tokens)
    indices = np.zeros((tokens, k), dtype=np.int64)
    enough = count >= k
    first = (np.cumsum(count) - count)[enough]
    indices[enough] = order[first[:, None] + np.arange(k)] & ((1 << bits) - 1)
    return indices


def _sorted(numbers: Tensor, k: int, columns: Tensor | None = None) -> Tensor:
    """Where the k largest of some columns (all without) of (N, T) are, by sorting them whole."""
    columns = torch.arange(numbers.shape[1]) if columns is None else columns
    indices = torch.empty(len(columns), k, dtype=torch.int64)
    for at in range(0, len(columns), AT_ONCE):
        part = numbers[:, columns[at : at + AT_ONCE]].T
        indices[at : at + AT_ONCE] = part.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return indices
