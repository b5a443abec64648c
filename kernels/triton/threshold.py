"""The latents of a token that are over their thresholds, packed in the order of their numbers.

One program owns one token and goes along its row with a running count, so that there are no atomics and the order,
and with it every sum over it, is the same in each run.
"""

# pyright: basic

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["capacity"])
def compact_kernel(
    pre,  # (T, latents)
    threshold,  # (latents,) float32
    values,  # (T, capacity)
    indices,  # (T, capacity) int64
    counts,  # (T,) int64: how many are over, whether they fit or not
    latents,
    capacity,
    LATENTS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    pre += token * latents
    values += token * capacity
    indices += token * capacity
    lane = tl.arange(0, LATENTS)
    count = tl.full([], 0, tl.int32)
    for start in range(0, latents, LATENTS):
        latent = start + lane
        known = latent < latents
        number = tl.load(pre + latent, mask=known, other=0.0)
        over = number.to(tl.float32) > tl.load(threshold + latent, mask=known, other=float("inf"))
        slot = count + tl.cumsum(over.to(tl.int32), 0) - 1
        fits = over & (slot < capacity)
        tl.store(values + slot, number, mask=fits)
        tl.store(indices + slot, latent.to(tl.int64), mask=fits)
        count += tl.sum(over.to(tl.int32))
    for start in range(0, capacity, LATENTS):
        slot = start + lane
        empty = (slot >= count) & (slot < capacity)
        tl.store(values + slot, tl.zeros([LATENTS], values.dtype.element_ty), mask=empty)
        tl.store(indices + slot, tl.zeros([LATENTS], tl.int64), mask=empty)
    tl.store(counts + token, count.to(tl.int64))
