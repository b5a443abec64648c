"""What the kernels share below the level of tensors: rounding, keys that order a row, the k-th largest of a block.

A key is one integer that holds a number's order above its place in the row, so that no two keys of a row are equal
and, of equal numbers, the one that stands first has the larger key.
"""

# pyright: basic
# (device code: parameters are pointers, blocks and constants of the compiler)

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "y", "yes"))
"""Triton's interpreter computes in numpy, which has no bfloat16: there, operands are widened before any arithmetic
and rounded to nearest by their bits."""

PLACE_BITS = tl.constexpr(20)
"""Of a 52-bit key, those that hold the place: rows of up to 1,048,576 numbers."""


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """A float32 block in `dtype`, to nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(dtype)


@triton.jit
def operand(block):
    """A block as `tl.dot` may take it."""
    return block.to(tl.float32) if INTERPRETED else block


@triton.jit
def norm_ratio(before, after):
    """What brings a vector back to its norm, from both norms' squares; a zero vector stays zero."""
    is_zero = after == 0
    return tl.where(is_zero, 0.0, tl.sqrt(before) / tl.sqrt(tl.where(is_zero, 1.0, after)))


@triton.jit
def lowest_key(LONG: tl.constexpr):
    """A key below that of every number."""
    return -(1 << 51) if LONG else -(1 << 31)


@triton.jit
def keys_of(bits, place, valid, LONG: tl.constexpr):
    """Keys of numbers given by their bits (int16 or int32): 32 bits for 16-bit numbers at places below 65,536,
    52 bits otherwise (`LONG`). -0 counts as 0; a NaN has no order.
    """
    wide = bits.to(tl.int32) << 16 if bits.dtype == tl.int16 else bits
    wide = tl.where(wide == -(1 << 31), 0, wide)
    if LONG:
        order = (wide ^ ((wide >> 31) & 0x7FFFFFFF)).to(tl.int64)
        key = (order << PLACE_BITS) | (0xFFFFF - place).to(tl.int64)
        return tl.where(valid, key, -(1 << 51))
    else:
        key = (wide ^ ((wide >> 31) & 0x7FFF0000)) | (0xFFFF - place)
        return tl.where(valid, key, -(1 << 31))


@triton.jit
def place_of(key, LONG: tl.constexpr):
    """The place that a key holds, int64."""
    if LONG:
        return 0xFFFFF - (key & 0xFFFFF)
    else:
        return (0xFFFF - (key & 0xFFFF)).to(tl.int64)


@triton.jit
def bits_of(key, dtype: tl.constexpr, LONG: tl.constexpr):
    """The bits of the number that a key holds, in int16 or int32."""
    if LONG:
        order = (key >> PLACE_BITS).to(tl.int32)
        wide = order ^ ((order >> 31) & 0x7FFFFFFF)
    else:
        order = key & -65536
        wide = order ^ ((order >> 31) & 0x7FFF0000)
    if dtype == tl.int16:
        return (wide >> 16).to(tl.int16)
    else:
        return wide


@triton.jit
def kth_largest(keys, k, LONG: tl.constexpr):
    """The k-th largest of a block of distinct keys, bit by bit from the top."""
    if LONG:
        found = tl.full([], -(1 << 51), tl.int64)
        bit = tl.full([], 1 << 51, tl.int64)
        for _ in range(52):
            candidate = found + bit
            found = tl.where(tl.sum((keys >= candidate).to(tl.int32)) >= k, candidate, found)
            bit = bit >> 1
    else:
        found = tl.full([], -(1 << 31), tl.int32)
        candidate = tl.full([], 0, tl.int32)
        found = tl.where(tl.sum((keys >= candidate).to(tl.int32)) >= k, candidate, found)
        bit = tl.full([], 1 << 30, tl.int32)
        for _ in range(31):
            candidate = found + bit
            found = tl.where(tl.sum((keys >= candidate).to(tl.int32)) >= k, candidate, found)
            bit = bit >> 1
    return found


@triton.jit
def places_of_true(chosen, K: tl.constexpr, SIZE: tl.constexpr):
    """Where in `chosen` (SIZE,) the first K trues stand, (K,) int32; SIZE - 1 where there are fewer."""
    running = tl.cumsum(chosen.to(tl.int32), 0)
    wanted = tl.arange(0, K) + 1
    place = tl.zeros([K], tl.int32)
    step: tl.constexpr = SIZE // 2
    half = tl.full([], step, tl.int32)
    # The running count only rises: the first place where it reaches the wanted one is found by halving.
    while half > 0:
        ahead = place + half - 1
        place = tl.where(tl.gather(running, ahead, 0) < wanted, place + half, place)
        half = half // 2
    return place
