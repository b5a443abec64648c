"""Adding one direction to every token in one reading and one writing: a token fits the registers of its program."""

# pyright: basic

from __future__ import annotations

import triton
import triton.language as tl

from .bits import norm_ratio, rounded


@triton.jit(do_not_specialize=["strength", "keep_norm"])
def add_direction_kernel(
    x,  # (T, width)
    direction,  # (width,) float32
    out,  # (T, width)
    width,
    strength,
    keep_norm,
    COLUMNS: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * width
    lane = tl.arange(0, COLUMNS)
    inside = lane < width
    old = tl.load(x + start + lane, mask=inside, other=0.0).to(tl.float32)
    new = old + strength * tl.load(direction + lane, mask=inside, other=0.0)
    if keep_norm != 0:
        new *= norm_ratio(tl.sum(old * old), tl.sum(new * new))
    tl.store(out + start + lane, rounded(new, x.dtype.element_ty), mask=inside)
