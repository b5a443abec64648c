"""Whether a few latents are among the k largest of a row, by counting how many are above each of them."""

# pyright: basic

from __future__ import annotations

import triton
import triton.language as tl

from .bits import keys_of


@triton.jit(do_not_specialize=["probes", "k"])
def membership_kernel(
    pre,  # (T, latents) int16 or int32: the bits of the pre-activations
    selected,  # (probes,) int64
    out,  # (T, probes) uint8
    latents,
    probes,
    k,
    PROBES: tl.constexpr,
    LATENTS: tl.constexpr,
    LONG: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    pre += token * latents
    probe = tl.program_id(1) * PROBES + tl.arange(0, PROBES)
    asked = probe < probes
    place = tl.load(selected + probe, mask=asked, other=0).to(tl.int32)
    bar = keys_of(tl.load(pre + place, mask=asked, other=0), place, asked, LONG)
    above = tl.zeros([PROBES], tl.int32)
    lane = tl.arange(0, LATENTS)
    for start in range(0, latents, LATENTS):
        latent = start + lane
        known = latent < latents
        keys = keys_of(tl.load(pre + latent, mask=known, other=0), latent, known, LONG)
        above += tl.sum((keys[None, :] > bar[:, None]).to(tl.int32), 1)
    tl.store(out + token * probes + probe, (above < k).to(tl.uint8), mask=asked)
