"""Speed and memory of the kernels on the CPU, on one thread: ``nox -s bench -- kernels``.

Claims a: TopK encode and decode of a whole dictionary against the bare matrix product and the peers' own packages.
Claims b: selected latents alone against a dense encode and decode, and against a block of the model they ride in.
Claims c: steered against unsteered sampling in the host. Claims f: a whole dictionary's file, of which Repel reads a
few rows. Every ratio is of medians from the same rounds.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from . import kernel_columns as columns
from .hosting.in_process import boot
from .results import Claim, at_least, at_most, versions, write
from .timing import Timing, beside_each_other, peak_bytes, ratio

SEED = 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `--tiny` only shows that it runs."""

    widths: tuple[int, ...] = (3072, 2432)
    latents: int = 24_576
    """For the first width; the others' are as many times their own width."""
    k: int = 32
    tokens: int = 512
    selected: tuple[int, ...] = (16, 64)
    heads: int = 24
    rounds: int = 15
    file_latents: int = 49_152
    steps: int = 8
    pictures: int = 4


TINY = Sizes((128, 64), 1024, 8, 16, (4, 8), 1, 3, 2048, 2, 1)


def claims_a(sizes: Sizes, rows: dict[str, Any]) -> dict[str, Claim]:
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


def claims_c(sizes: Sizes, rows: dict[str, Any], folder: Path) -> dict[str, Claim]:
    """Samples of the world's FLUX in the host: plain, with Repel at three sites, and with its gates closed."""
    from ..host.sampling import Sampling, encode_prompts, sample_prompts
    from ..nodes.steer import RepelNode
    from .emoji_scenes import in_host

    model, clip = in_host.generator(), in_host.text_encoder()
    dit = model.get_model_object("diffusion_model")
    prompts = [f"a cat and {n} dogs" for n in range(sizes.pictures)]
    encoded = encode_prompts(clip, [*prompts, ""])
    sites = ("double.1.image", "single.0.image", "single.1.image")

    def sampled(what: Any) -> columns.Run:
        settings = Sampling(steps=sizes.steps)
        return lambda: list(
            sample_prompts(what, encoded[:-1], encoded[-1], range(len(prompts)), settings, len(prompts))
        )

    def repelled(gate: float) -> Any:
        bundle = random_bundle(folder / f"gate-{gate:g}.safetensors", sites, dit.hidden_size, 2048, gate)
        inputs = {i.id: i.default for i in RepelNode.define_schema().inputs if hasattr(i, "default")}
        return RepelNode.execute(**{**inputs, "model": model, "bundle": bundle}).args[0]

    runs = {"plain": sampled(model), "repel": sampled(repelled(0.0)), "closed": sampled(repelled(1e30))}
    timings = beside_each_other(runs, sizes.rounds)
    rows["c"] = described(timings, steps=sizes.steps, pictures=sizes.pictures, sites=list(sites))
    return {
        "c.repel": at_most(ratio(timings, "repel", "plain"), 1.10, sizes.rounds),
        "c.closed": at_most(ratio(timings, "closed", "plain"), 1.03, sizes.rounds),
    }


def claims_f(sizes: Sizes, rows: dict[str, Any], folder: Path) -> dict[str, Claim]:
    """Opening a whole dictionary's file and making a Repel of 64 of its latents."""
    from ..steering import Gate, Repel, SelectedLatents
    from ..steering.formats.bundle import open_bundle

    path = folder / "large.safetensors"
    random_bundle(path, ("double.0.image",), sizes.widths[0], sizes.file_latents, 0.0)
    gc.collect()

    def load() -> Any:
        bundle = open_bundle(path)
        ((site, sae),) = bundle.sites.items()
        latents = SelectedLatents(sae, bundle.read_latents(site, sae.selected()), sae.selected())
        return Repel(latents, Gate.over("image", dict(sae.categories), latents.latents))

    load()
    began = time.perf_counter()
    load()
    seconds, held = time.perf_counter() - began, peak_bytes(load)
    rows["f"] = {"file_bytes": path.stat().st_size, "seconds": seconds, "peak_bytes": held}
    claims = {"f.seconds": at_most(seconds, 1.0, 1)}
    return claims if held is None else {**claims, "f.bytes": at_most(held, 20e6, 1)}


def random_bundle(path: Path, sites: tuple[str, ...], d: int, latents: int, gate: float) -> Any:
    """A jumprelu bundle of random rows whose one category has up to 64 latents, spread over the dictionary."""
    from ..steering.formats.bundle import write_bundle
    from ..steering.formats.header import Base, BundleHeader, Category, Gate, Made, SaeSite
    from ..steering.sites import Site

    g = torch.Generator().manual_seed(SEED)
    count = min(64, latents)
    chosen = tuple(range(0, latents, latents // count))[:count]
    category = Category(chosen, (1.0,) * count, Gate(gate, gate))
    sae = SaeSite(d, latents, "jumprelu", categories={"random": category})
    rows = torch.randn(latents, d, generator=g).div_(d**0.5)
    tensors = {
        "encoder": rows,
        "encoder_bias": torch.zeros(latents),
        "decoder": 0.01 * rows,
        "decoder_bias": torch.zeros(d),
        "threshold": torch.ones(latents),
    }
    header = BundleHeader(
        "random", "flux", Base("any"), "CC0-1.0", Made("bench"), {Site.parse(s): sae for s in sites}
    )
    return write_bundle(path, header, {f"{site}.{part}": t for site in sites for part, t in tensors.items()})


def described(timings: dict[str, Timing], **sizes: Any) -> dict[str, Any]:
    return {**sizes, "columns": {name: asdict(timing) for name, timing in timings.items()}}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--only", default="abcf", help="letters of the claims to measure")
    ask.add_argument(
        "--tiny", action="store_true", help="small sizes, to see that everything runs; not written"
    )
    args = ask.parse_args()
    sizes, rows, claims = TINY if args.tiny else Sizes(), {}, {}
    host = boot()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if "a" in args.only:
            claims |= claims_a(sizes, rows)
        if "b" in args.only:
            claims |= claims_b(sizes, rows)
        if "c" in args.only:
            claims |= claims_c(sizes, rows, folder)
        if "f" in args.only:
            claims |= claims_f(sizes, rows, folder)
    for name, claim in claims.items():
        verdict = "ran  " if args.tiny else "holds" if claim.holds else "FAILS"
        print(f"{verdict}  {name}: {claim.value:.4g} (bound {claim.bound})")
    if args.tiny:
        return
    found = versions("torch", "numpy", "sae-lens", "eai-sparsify", "dictionary-learning")
    machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    path = explained(sizes)
    write("kernels", claims, host=host, machine=machine, paths=path, rows=rows, seed=SEED, versions=found)


def explained(sizes: Sizes) -> list[str]:
    """Which path computed what was measured."""
    shape = {"latents": sizes.latents, "width": sizes.widths[0], "tokens": sizes.tokens}
    return [
        kernels.explain(operation, "cpu", dtype, **shape)
        for operation in ("encode_topk", "decode", "encode_and_steer")
        for dtype in DTYPES.values()
    ]


if __name__ == "__main__":
    main()
