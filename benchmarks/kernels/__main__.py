"""Speed and memory of the kernels on the CPU, on one thread: ``nox -s bench -- kernels``.

Claims a: TopK encode and decode of a whole dictionary against the bare matrix product and the peers' own packages.
Claims b: selected latents alone against a dense encode and decode, and against a block of the model they ride in.
Claims c: steered against unsteered sampling in the host.
Claims d: the GPU's kernels, compiled for six architectures, and the bytes that they move.
Claims e: random calls, each path against the reference. Claims g: calls and files at the edge of what is taken.
Claims f: a whole dictionary's file, of which Repel reads a few rows.
Every ratio is of medians from the same rounds. With ``--device cuda`` cuda.py measures instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import kernels
from ..hosting.in_process import boot
from ..results import Claim, told, versions, write
from . import cuda
from .agreement import claims_e, claims_g
from .bundle_file import claims_f
from .compiled import claims_d
from .hosted import claims_c
from .settings import DTYPES, SEED, TINY, Sizes
from .speed import claims_a, claims_b

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
        return cuda.main(["--device", str(args.device)])
    sizes, rows, claims, holds = TINY if args.tiny else Sizes(), Rows(), dict[str, Claim](), True
    host = boot()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        for letter, measure in CLAIMS.items():
            if letter in args.only:
                found = measure(sizes, rows, Path(folder))
                claims |= found
                holds = told(found, trial=args.tiny) and holds
    if args.tiny or set(args.only) != set(CLAIMS):
        return 0 if holds or args.tiny else 1
    found = versions("torch", "numpy", "triton", "sae-lens", "eai-sparsify", "dictionary-learning")
    machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    path = explained(sizes)
    write("kernels", claims, host=host, machine=machine, paths=path, rows=rows, seed=SEED, versions=found)
    return 0 if holds else 1


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
