"""Steering along selected latents in one kernel: encode, gate, update and, if wanted, keep the norm.

A program owns a few tokens over their whole width. The first pass over their activations encodes; the passes after
it find the same activations in the L2 cache, so that device memory sees x read once and x' written once: a launch has
no more tokens than the cache holds (`configs.steered_at_once`), unless it is too small to keep a GPU busy.
"""

# pyright: basic

from __future__ import annotations

import triton
import triton.language as tl

from .bits import norm_ratio, operand, rounded


@triton.jit(do_not_specialize=["tokens", "latents", "strength", "keep_norm"])
def steer_kernel(
    x,  # (T, width)
    out,  # (T, width)
    codes,  # (T, latents), or None where the kernel encodes
    encoder,  # (latents, width), or None where codes are given; so for bias and threshold, (latents,) float32
    bias,
    threshold,
    directions,  # (latents, width)
    tokens,
    width,
    latents,
    strength,
    keep_norm,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LATENTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    dtype: tl.constexpr = x.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * TOKENS
    token = tl.arange(0, TOKENS)
    here = (first + token < tokens)[:, None]
    latent = tl.arange(0, LATENTS)
    known = latent < latents
    lane = tl.arange(0, COLUMNS)
    place = token[:, None] * width + lane[None, :]  # from the first token of the program
    row = latent[:, None] * width + lane[None, :]
    x += first * width
    out += first * width

    if codes is None:
        total = tl.zeros([TOKENS, LATENTS], tl.float32)
        for start in range(0, width, COLUMNS):
            inside = (start + lane < width)[None, :]
            tile = operand(tl.load(x + place + start, mask=here & inside, other=0.0))
            part = operand(tl.load(encoder + row + start, mask=known[:, None] & inside, other=0.0))
            total = tl.dot(tile, part.T, total, input_precision=PRECISION)
        total += tl.load(bias + latent, mask=known, other=0.0)[None, :]
        pre = rounded(total, dtype).to(tl.float32)
        is_open = pre > tl.load(threshold + latent, mask=known, other=float("inf"))[None, :]
        z = tl.where(is_open, pre, pre * 0.0)  # a NaN stays one
    else:
        codes += first * latents
        given = codes + token[:, None] * latents + latent[None, :]
        z = tl.load(given, mask=here & known[None, :], other=0.0).to(tl.float32)
    acts = tl.sum(tl.where(z != 0, 1, 0), 1)  # (TOKENS,): how many
    z = operand(rounded(z, dtype))

    if tl.max(acts, 0) == 0:
        for start in range(0, width, COLUMNS):
            kept = here & (start + lane < width)[None, :]
            tl.store(out + place + start, tl.load(x + place + start, mask=kept), mask=kept)
    else:
        scale = tl.full([TOKENS], 1.0, tl.float32)
        if keep_norm != 0:
            before = tl.zeros([TOKENS], tl.float32)
            after = tl.zeros([TOKENS], tl.float32)
            for start in range(0, width, COLUMNS):
                inside = (start + lane < width)[None, :]
                part = operand(tl.load(directions + row + start, mask=known[:, None] & inside, other=0.0))
                old = tl.load(x + place + start, mask=here & inside, other=0.0).to(tl.float32)
                new = old + strength * tl.dot(z, part, input_precision=PRECISION)
                before += tl.sum(old * old, 1)
                after += tl.sum(new * new, 1)
            scale = norm_ratio(before, after)
        for start in range(0, width, COLUMNS):
            inside = (start + lane < width)[None, :]
            part = operand(tl.load(directions + row + start, mask=known[:, None] & inside, other=0.0))
            # Nothing is read again after this, nor is what is written.
            tile = tl.load(x + place + start, mask=here & inside, other=0.0, eviction_policy="evict_first")
            new = tile.to(tl.float32) + strength * tl.dot(z, part, input_precision=PRECISION)
            new = rounded(new * scale[:, None], dtype)
            new = tl.where(tl.expand_dims(acts, 1) != 0, new, tile)
            tl.store(out + place + start, new, mask=here & inside, eviction_policy="evict_first")
