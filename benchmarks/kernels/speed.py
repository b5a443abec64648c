"""How fast codes are made and used: a whole dictionary, and the few latents that steering selects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import kernels
from ...steering.formats import header
from ...steering.formats.bundle import LatentTensors
from ...steering.gates import Gate
from ...steering.modifiers import Repel, Step
from ...steering.sae import SelectedLatents
from ...steering.sites import Site
from ..results import Claim, at_least, at_most
from ..timing import beside_each_other, described, ratio
from . import columns
from .settings import DTYPES, SEED, Sizes


def claims_a(sizes: Sizes, rows: dict[str, Any]) -> dict[str, Claim]:
    """TopK encode and decode of a whole dictionary, beside the bare product and the peers' packages."""
    claims: dict[str, Claim] = {}
    for d in sizes.widths:
        for name, dtype in DTYPES.items():
            n = sizes.latents // sizes.widths[0] * d
            world = columns.World.drawn(sizes.tokens, d, n, dtype, SEED)
            runs = {"product": columns.product(world), "ours": columns.ours(world, sizes.k)}
            runs |= {peer: make(world, sizes.k) for peer, make in columns.PEERS.items()}
            timings = beside_each_other(runs, sizes.rounds)
            key = f"a.{d}.{name}"
            rows[key] = described(timings, d=d, latents=n, k=sizes.k, tokens=sizes.tokens)
            claims[f"{key}.over_product"] = at_most(ratio(timings, "ours", "product"), 1.10, sizes.rounds)
            for peer, bound in (("sparsify", 1.0), ("sae_lens", 1.8), ("dictionary_learning", 1.8)):
                claims[f"{key}.{peer}"] = at_least(ratio(timings, peer, "ours"), bound, sizes.rounds)
            del runs, world
            gc.collect()
    return claims


def claims_b(sizes: Sizes, rows: dict[str, Any]) -> dict[str, Claim]:
    """Selected latents alone, beside a dense encode and decode and beside a block of the model."""
    claims: dict[str, Claim] = {}
    d = sizes.widths[0]
    for name, dtype in DTYPES.items():
        world = columns.World.drawn(sizes.tokens, d, sizes.latents, dtype, SEED)
        runs: dict[str, columns.Run] = {
            "dense": columns.dense(world, sizes.k),
            "block": double_block(d, sizes.heads, sizes.tokens, dtype),
        }
        for s in sizes.selected:
            runs |= {f"{what}_{s}": run for what, run in selected(world, s)}
        timings = beside_each_other(runs, sizes.rounds)
        rows[f"b.{name}"] = described(timings, d=d, latents=sizes.latents, tokens=sizes.tokens)
        for s in sizes.selected:
            claims[f"b.{name}.{s}.dense"] = at_least(ratio(timings, "dense", f"code_{s}"), 100, sizes.rounds)
            claims[f"b.{name}.{s}.block"] = at_most(ratio(timings, f"steer_{s}", "block"), 0.02, sizes.rounds)
        del runs, world
        gc.collect()
    return claims


def selected(w: columns.World, s: int) -> Iterator[tuple[str, columns.Run]]:
    """Encode and decode of s latents, and steering by them; every token has some that fire."""
    encoder, decoder, bias = w.encoder[:s].clone(), w.decoder[:s].clone(), w.encoder_bias[:s].clone()
    zero = torch.zeros(s, dtype=w.x.dtype)

    def code() -> Tensor:
        z = kernels.encode_selected(w.x, encoder, bias, zero)
        return kernels.decode_selected(z, decoder, w.decoder_bias)

    yield "code", code
    yield "steer", lambda: kernels.encode_and_steer(w.x, encoder, bias, zero, decoder, -1.0, True)
    yield "repel", repel(w, s)


def repel(w: columns.World, s: int) -> columns.Run:
    """The modifier of the node: in float32, with the gate's scores and every finding checked, the norm kept."""
    category = header.Category(tuple(range(s)), (1.0,) * s, header.GateThresholds(0.0, 0.0))
    sae = header.SaeSite(w.x.shape[1], len(w.encoder), "jumprelu", categories={"any": category})
    encoder, bias, decoder = (part[:s].float() for part in (w.encoder, w.encoder_bias, w.decoder))
    shift, threshold = w.decoder_bias.float(), torch.zeros(s)
    tensors = LatentTensors(tuple(range(s)), encoder, bias, decoder, shift, threshold, None)
    latents = SelectedLatents(sae, tensors)
    modify = Repel(latents, Gate.over("image", {"any": category}, latents.latents))
    step = Step(Site.parse("double.0.image"), 1.0, (0,))
    return lambda: modify(w.x[None], step)


def double_block(d: int, heads: int, tokens: int, dtype: torch.dtype) -> columns.Run:
    """The forward pass of the host's own FLUX double block with random weights, an eighth of the tokens being text."""
    import comfy.ops
    from comfy.ldm.flux.layers import DoubleStreamBlock
    from comfy.ldm.flux.math import rope

    block = DoubleStreamBlock(
        d, heads, 4.0, qkv_bias=True, dtype=dtype, operations=comfy.ops.disable_weight_init
    )
    g = torch.Generator().manual_seed(SEED)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g).mul_(0.02).to(dtype)
    text, image, vec = (
        torch.randn(1, length, d, generator=g).to(dtype) for length in (tokens // 8, tokens - tokens // 8, 1)
    )
    places = rope(torch.arange(tokens)[None], d // heads, 10_000)[:, None]
    return lambda: block(img=image, txt=text, vec=vec[:, 0], pe=places)
