"""`python -m steerdit train RECORDING --site SITE --to FOLDER`: trains a sparse autoencoder without a server.

Under torchrun (`torchrun --nproc-per-node 4 -m steerdit train …`) the processes train one together. Whatever ends it,
Ctrl-C and a cluster's SIGTERM included, the same command goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ..steering.errors import SteeringError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", type=Path, help="the folder of a recording")
    parser.add_argument("--site", required=True, help="such as double.18.image")
    parser.add_argument(
        "--to", type=Path, required=True, help="the job's folder; its result is sae.safetensors"
    )
    parser.add_argument("--config", type=Path, help="settings, .toml or .json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one setting, such as k=16; give it often",
    )
    parser.add_argument("--labels", help="prompts to learn from, such as unsafe,safe (default: all)")
    parser.add_argument(
        "--counterfactuals",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of each batch: tokens around the crossing from unsafe to safe, made from the pairs (default: none)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of the processor (default: all but one)")
    parser.add_argument("--base", default="not said", help="name of the checkpoint that was recorded")
    parser.add_argument("--license", default="LicenseRef-unknown", help="SPDX expression of the result")
    parser.add_argument(
        "--saelens", type=Path, metavar="FOLDER", help="write the result in SAELens's format too"
    )


def run(arguments: argparse.Namespace) -> int:
    from ..training.dictionaries.training import Stopped

    try:
        return _run(arguments)
    except Stopped:
        print("Stopped. Start it again to go on from there.", file=sys.stderr)
        return 130
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm  # comes with huggingface_hub

    from ..steering.formats.bundle import open_bundle
    from ..training.dictionaries import job
    from ..training.dictionaries.export import export_saelens
    from ..training.dictionaries.journal import Line
    from ..training.dictionaries.ranks import joined

    wanted = _wanted(arguments)
    asked: list[int] = []
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda number, _: asked.append(number))
    with joined(arguments.device) as (ranks, device):
        if ranks.first:
            wanted = job.prepare(arguments.to, wanted)
        ranks.total(0)  # the others wait until the folder is there
        if ranks.world == 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(wanted.threads)
        with tqdm(total=wanted.config.steps, unit="step", disable=not ranks.first) as bar:

            def report(line: Line) -> None:
                if line.held:
                    bar.write(f"step {line.step}: held-out FVU {line.fvu:.4f}, L0 {line.l0:.1f}")
                else:
                    bar.update(line.step - bar.n)
                    bar.set_postfix_str(f"FVU {line.fvu:.4f} L0 {line.l0:.1f} dead {line.dead:.1%}")

            sae = job.run(arguments.to, ranks=ranks, device=device, report=report, stop=lambda: bool(asked))
        if ranks.first:
            print(f"{sae.report()}\n{arguments.to / job.RESULT}")
            if arguments.saelens is not None:
                bundle = open_bundle(arguments.to / job.RESULT)
                print(export_saelens(bundle, wanted.site, arguments.saelens))
    return 0


def _wanted(arguments: argparse.Namespace) -> Any:
    from ..steering.sites import Site
    from ..training.dictionaries.config import TrainingConfig, parse_toml, read_table
    from ..training.dictionaries.job import Job
    from ..training.recordings import open_recording

    said = {} if arguments.config is None else read_table(arguments.config)
    where = str(arguments.config or "--config")
    checked = TrainingConfig.checked(said, where)
    for one in arguments.set:
        name, _, value = one.partition("=")
        quoted = value if value[:1] in "+-.0123456789\"'" else f'"{value}"'
        checked |= TrainingConfig.checked(parse_toml(f"{name} = {quoted}", f"--set {one}"), f"--set {one}")
    labels = (
        None if arguments.labels is None else tuple(label.strip() for label in arguments.labels.split(","))
    )
    return Job.of(
        open_recording(arguments.recording),
        Site.parse(arguments.site),
        config=TrainingConfig(**checked),
        labels=labels,
        device=arguments.device,
        threads=arguments.threads,
        base=arguments.base,
        license=arguments.license,
        counterfactuals=arguments.counterfactuals,
    )
