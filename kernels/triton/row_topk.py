"""The k largest of every row of pre-activations, exactly, in one reading of the row.

Two levels: the largest key of each group of latents; the k groups whose largest is among the k largest of those;
then the k largest among the members of these groups. Every one of the k largest lies there, because an element
outside would have k larger ones above it, one in each chosen group. Ties fall to the lowest index, because keys are
distinct. There is no sort, no atomic and no scratch memory.
"""

# pyright: basic

from __future__ import annotations

import triton
import triton.language as tl

from .bits import bits_of, keys_of, kth_largest, lowest_key, place_of, places_of_true


@triton.jit(do_not_specialize=["k"])
def row_topk_kernel(
    pre,  # (T, latents) int16 or int32: the bits of the pre-activations
    values,  # (T, k) of the same type: the bits of the k largest, largest first
    indices,  # (T, k) int64
    latents,
    k,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    SPAN: tl.constexpr,
    PASSES: tl.constexpr,
    LONG: tl.constexpr,
    RELU: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    row = pre + token * latents
    group = tl.arange(0, GROUPS)
    if SPAN * PASSES == 1:
        valid = group < latents
        candidates = keys_of(tl.load(row + group, mask=valid, other=0), group, valid, LONG)
        SIZE: tl.constexpr = GROUPS
    else:
        best = tl.full([GROUPS], lowest_key(LONG), tl.int64 if LONG else tl.int32)
        lane = tl.arange(0, SPAN)
        for run in range(PASSES):
            place = (run * GROUPS + group[:, None]) * SPAN + lane[None, :]
            valid = place < latents
            keys = keys_of(tl.load(row + place, mask=valid, other=0), place, valid, LONG)
            best = tl.maximum(best, tl.max(keys, 1))
        chosen = places_of_true(best >= kth_largest(best, k, LONG), K, GROUPS)  # (K,)
        member = tl.arange(0, SPAN * PASSES)
        place = ((member // SPAN)[None, :] * GROUPS + chosen[:, None]) * SPAN + (member % SPAN)[None, :]
        valid = (place < latents) & (tl.arange(0, K) < k)[:, None]
        keys = keys_of(tl.load(row + place, mask=valid, other=0), place, valid, LONG)
        candidates = tl.reshape(keys, [K * SPAN * PASSES])
        SIZE: tl.constexpr = K * SPAN * PASSES
    chosen = places_of_true(candidates >= kth_largest(candidates, k, LONG), K, SIZE)
    slot = tl.arange(0, K)
    best = tl.where(slot < k, tl.gather(candidates, chosen, 0), lowest_key(LONG))
    rank = tl.sum((best[None, :] > best[:, None]).to(tl.int32), 1)  # (K,)
    bits = bits_of(best, values.dtype.element_ty, LONG)
    if RELU:
        bits = tl.where(bits < 0, 0, bits).to(values.dtype.element_ty)
    tl.store(values + token * k + rank, bits, mask=slot < k)
    tl.store(indices + token * k + rank, place_of(best, LONG).to(tl.int64), mask=slot < k)
