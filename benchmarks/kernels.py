"""Speed and memory of the kernels on the CPU, on one thread: ``nox -s bench -- kernels``.

Claims a: TopK encode and decode of a whole dictionary against the bare matrix product and the peers' own packages.
Claims b: selected latents alone against a dense encode and decode, and against a block of the model they ride in.
Claims c: steered against unsteered sampling in the host.
Claims d: the GPU's kernels, compiled for six architectures, and the bytes that they move.
Claims e: random calls, each path against the reference. Claims g: calls and files at the edge of what is taken.
Claims f: a whole dictionary's file, of which Repel reads a few rows.
Every ratio is of medians from the same rounds. With ``--device cuda`` kernels_cuda.py measures instead.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..steering.formats import header
from ..steering.formats.bundle import LatentTensors
from ..steering.gates import Gate
from ..steering.modifiers import Repel, Step
from ..steering.sae import SelectedLatents
from ..steering.sites import Site
from . import kernel_columns as columns
from . import kernels_cuda
from .hosting.in_process import boot
from .kernel_agreement import claims_e, claims_g
from .kernel_file import SEED, claims_f
from .kernel_hosted import claims_c
from .kernel_table import claims_d
from .results import Claim, at_least, at_most, versions, write
from .timing import beside_each_other, described, ratio

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
    pictures: tuple[int, ...] = (4, 16)
    """In a batch; 16 is what the pack samples at once where it is not told otherwise."""
    architectures: tuple[int, ...] | None = None
    """To compile for; None is all."""
    calls: int = 1000


TINY = Sizes((128, 64), 1024, 8, 16, (4, 8), 1, 3, 2048, 2, (1,), (89,), 20)


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


Rows = dict[str, Any]

CLAIMS: Mapping[str, Callable[[Sizes, Rows, Path], dict[str, Claim]]] = {
    "a": lambda sizes, rows, _: claims_a(sizes, rows),
    "b": lambda sizes, rows, _: claims_b(sizes, rows),
    "c": lambda sizes, rows, folder: claims_c(
        rows, folder, steps=sizes.steps, pictures=sizes.pictures, rounds=sizes.rounds
    ),
    "d": lambda sizes, rows, _: claims_d(rows, sizes.architectures),
    "e": lambda sizes, rows, _: claims_e(rows, sizes.calls),
    "f": lambda sizes, rows, folder: claims_f(rows, folder, sizes.widths[0], sizes.file_latents),
    "g": lambda _, rows, __: claims_g(rows),
}


def main(arguments: Sequence[str] | None = None) -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--device", default="cpu", type=torch.device, help="cpu or cuda")
    ask.add_argument("--only", default="".join(CLAIMS), help="letters of the claims to measure; not written")
    ask.add_argument(
        "--tiny", action="store_true", help="small sizes, to see that everything runs; not written"
    )
    args = ask.parse_args(arguments)
    if args.device.type != "cpu":
        return kernels_cuda.main(["--device", str(args.device)])
    sizes, rows, claims = TINY if args.tiny else Sizes(), Rows(), dict[str, Claim]()
    host = boot()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        for letter, measure in CLAIMS.items():
            if letter in args.only:
                found = measure(sizes, rows, Path(folder))
                claims |= found
                for name, claim in found.items():
                    verdict = "ran  " if args.tiny else "holds" if claim.holds else "FAILS"
                    print(f"{verdict}  {name}: {claim.value:.4g} (bound {claim.bound})", flush=True)
    if args.tiny or set(args.only) != set(CLAIMS):
        return 0
    found = versions("torch", "numpy", "triton", "sae-lens", "eai-sparsify", "dictionary-learning")
    machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    path = explained(sizes)
    write("kernels", claims, host=host, machine=machine, paths=path, rows=rows, seed=SEED, versions=found)
    return 0


def explained(sizes: Sizes) -> list[str]:
    """Which path computed what was measured."""
    shape = {"latents": sizes.latents, "width": sizes.widths[0], "tokens": sizes.tokens}
    return [
        kernels.explain(operation, "cpu", dtype, **shape)
        for operation in ("encode_topk", "decode", "encode_and_steer")
        for dtype in DTYPES.values()
    ]


if __name__ == "__main__":
    sys.exit(main())
