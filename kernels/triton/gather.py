"""Decoding sparse codes: the rows that a token names, gathered and summed.

The slices of the width are the grid's slow axis: while one slice is under way, all tokens share the part of the
dictionary that it needs (25 MB for 24,576 latents and 512 columns of bfloat16), and that part stays in the L2 cache.
"""

# pyright: basic

from __future__ import annotations

import triton
import triton.language as tl

from .bits import rounded


@triton.jit(do_not_specialize=["k"])
def gather_kernel(
    values,  # (T, k)
    indices,  # (T, k) int64 or int32
    rows,  # (latents, width)
    bias,  # (width,) float32
    out,  # (T, width)
    k,
    width,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    total = tl.load(bias + column, mask=inside, other=0.0)
    for start in range(0, k, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        value = tl.load(values + token * k + slot, mask=slot < k, other=0.0).to(tl.float32)
        index = tl.load(indices + token * k + slot, mask=slot < k, other=0).to(tl.int64)
        named = (slot < k)[:, None] & inside[None, :]
        part = tl.load(rows + index[:, None] * width + column[None, :], mask=named, other=0.0)
        total += tl.sum(value[:, None] * part.to(tl.float32), 0)
    tl.store(out + token * width + column, rounded(total, out.dtype.element_ty), mask=inside)
