"""How fast autoencoders are trained beside the peers' own trainers: ``nox -s bench -- trainers``.

Claims e: tokens per second and FVU. Claims f: what is killed goes on to the same bytes (training_kills.py for training,
adaptation_kills.py for adaptation).
All see the same batches, in turns, with the same latents, k, rate, schedule and thread; the time is that of whole
steps, and the FVU that of the same held-out activations when all steps are made. Activations at the width of the
emoji-scenes FLUX are of a recording of it, or of another (--recording and --site); those of larger models are drawn:
sums of few of many directions of uneven frequency, with noise and a mean. On recordings a row shows ours with
plain gradients, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..hosting.in_process import boot
from ..results import Claim, told, versions, write
from . import adaptation_kills, training_kills
from .cases import CASES, SEED, TINY
from .speed import drawn, measured, record, recorded

SITE = "double.1.image"


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument(
        "--tiny", action="store_true", help="small sizes, to see that everything runs; not written"
    )
    ask.add_argument("--only", help="names of cases, with commas between, such as e.192.topk.float32")
    ask.add_argument("--columns", help="names of trainers, with commas between; `ours` has to be among them")
    ask.add_argument("--steps", type=int, help="of every case, instead of its own; not written")
    ask.add_argument(
        "--kills", type=int, default=10, help="random points at which a training and an adaptation are killed"
    )
    ask.add_argument(
        "--recording", type=Path, help="instead of one of the emoji-scenes FLUX; all cases at its width"
    )
    ask.add_argument("--site", default=SITE)
    args = ask.parse_args()
    torch.set_num_threads(1)
    cases = TINY if args.tiny else CASES
    if args.only:
        cases = tuple(case for case in cases if case.name in args.only.split(","))
    host = boot() if any(case.recorded for case in cases) and not args.recording else ""
    rows: dict[str, Any] = {}
    claims: dict[str, Claim] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = args.recording or Path(place) / "recording"
        if host:
            record(folder)
        for case in cases:
            if args.steps:
                case = replace(case, steps=args.steps)
            count = min(case.steps, 64)
            if args.recording or case.recorded:
                held, batches = recorded(folder, args.site, case.batch, count)
                times = case.latents // case.width
                case = replace(case, width=held.shape[1], latents=times * held.shape[1], recorded=True)
            else:
                held, batches = drawn(case.width, case.batch, count)
            found = measured(case, held, batches, rows, args.columns and args.columns.split(","))
            row = rows[case.name]
            for name, speed in row["tokens_per_second"].items():
                print(f"{case.name} {name}: {speed:,.0f} tokens/s, FVU {row['fvu'][name]:.4f}", flush=True)
            claims |= found
    with tempfile.TemporaryDirectory() as made:
        if args.kills:
            for name, of in (("f", training_kills.kills), ("f.adapt", adaptation_kills.kills)):
                found, rows[name] = of(Path(made) / name, args.kills)
                claims |= found
    trial = bool(args.tiny or args.steps)
    holds = told(claims, trial=trial)
    if not (trial or args.only or args.columns):
        found = versions("torch", "numpy", "sae-lens", "eai-sparsify", "dictionary-learning")
        machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
        source = args.recording.name if args.recording else "emoji-scenes-flux"
        write(
            "trainers",
            claims,
            machine=machine,
            recording=f"{source}, {args.site}",
            rows=rows,
            seed=SEED,
            host=host,
            versions=found,
        )
    return 0 if holds or trial else 1


if __name__ == "__main__":
    sys.exit(main())
