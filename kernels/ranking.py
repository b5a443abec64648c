"""The k largest of many numbers on a processor, exactly: of equal ones those of lowest index.

Two levels, ours after approximate methods that keep one number per group (Chern et al., 2206.14286), but exact. N
numbers are dealt into M groups, group g holding g, g + M, g + 2M ... The k-th largest of any of their maxima is a
bound: k numbers reach it, so every number of the answer does, ties included, and lies in a group whose maximum does.
There are few such groups, and what reaches the bound in them is sorted by number and index.

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


def largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each column, falling, and where they are.

    Args:
        pre: (N, T), contiguous, without NaN.

    Returns:
        values (T, k) in pre's dtype and indices (T, k) int64.
    """
    if pre.dtype not in INTEGERS or pre.numel() == 0 or len(pre) // MEMBERS < COARSE * k:
        indices = _sorted(pre, k)
    else:
        indices, bound = _searched(pre.view(INTEGERS[pre.dtype]), k)
        low = (bound <= 0).nonzero()[:, 0]
        if len(low):
            indices[low] = _searched(_rising(pre[:, low]), k)[0]
    return pre.T.gather(1, indices), indices


def _rising(pre: Tensor) -> Tensor:
    """Integers that rise with floats of either sign, and are equal for −0 and 0."""
    bits = (pre + 0.0).view(INTEGERS[pre.dtype])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _searched(keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Where the k largest integers of each column (N, T) are, (T, k), and the bound (T) of their groups."""
    latents, tokens = keys.shape
    groups, coarse = latents // MEMBERS, COARSE * k
    dealt = keys[: groups * MEMBERS].view(MEMBERS, groups, tokens)
    maxima = dealt.amax(0)  # (M, T)
    few = maxima[: groups // coarse * coarse].view(-1, coarse, tokens).amax(0).T  # (T, COARSE · k)
    bound = few.topk(k, sorted=False).values.amin(1)
    reach = maxima.numpy() >= bound.numpy()  # torch compares into bool a number at a time
    found = np.flatnonzero(reach)
    crowd = np.empty(0, dtype=np.int64)
    if len(found) > CROWD * k * tokens:
        crowd = np.flatnonzero(reach.sum(0) > CROWD * k)
        if len(crowd):
            reach[:, crowd] = False
            found = np.flatnonzero(reach)
    indices = torch.from_numpy(_ordered(keys.numpy(), found, bound.numpy(), groups, k))
    if len(crowd):
        columns = torch.from_numpy(crowd)
        indices[columns] = _sorted(keys, k, columns)
    return indices, bound


def _ordered(keys: Any, found: Any, bound: Any, groups: int, k: int) -> Any:
    """Where the k largest of each column are, among the groups found as places in (M, T) and what is in no group.

    A column without any group found gets zeros.
    """
    latents, tokens = keys.shape
    members = found[:, None] + np.arange(MEMBERS) * (groups * tokens)  # (F, MEMBERS) places in (N, T)
    rest = np.arange(groups * MEMBERS * tokens, latents * tokens)
    place = np.concatenate([members.ravel(), rest])
    value = keys.ravel()[place]
    reach = np.flatnonzero(value >= bound[place % tokens])
    place, value = place[reach], value[reach].astype(np.int64)
    latent = place // tokens
    # One integer says token, then rank, then index: chunks are small enough for 63 bits.
    bits = latents.bit_length()
    order = ((place % tokens) << (32 + bits)) | ((2**31 - 1 - value) << bits) | latent
    order.sort()
    count = np.bincount(order >> (32 + bits), minlength=tokens)
    indices = np.zeros((tokens, k), dtype=np.int64)
    whole = count >= k
    first = (np.cumsum(count) - count)[whole]
    indices[whole] = order[first[:, None] + np.arange(k)] & ((1 << bits) - 1)
    return indices


def _sorted(numbers: Tensor, k: int, columns: Tensor | None = None) -> Tensor:
    """Where the k largest of some columns (all without) of (N, T) are, by sorting them whole."""
    columns = torch.arange(numbers.shape[1]) if columns is None else columns
    indices = torch.empty(len(columns), k, dtype=torch.int64)
    for at in range(0, len(columns), AT_ONCE):
        part = numbers[:, columns[at : at + AT_ONCE]].T
        indices[at : at + AT_ONCE] = part.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return indices
