"""`python -m steerdit record`: records a model's activations without a server.

Launched many times at once (torchrun, srun, mpirun, Ray Train), each process takes its part of the shards. Where all
write to one folder, the last one finishes the recording; otherwise `python -m steerdit merge` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..steering.errors import SteeringError
from . import hosted

DEFAULT_BUCKETS = "4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    hosted.add_host_arguments(parser)
    hosted.add_model_arguments(parser)
    what = parser.add_argument_group("what is recorded")
    what.add_argument(
        "--prompts", type=Path, required=True, help=".jsonl or .csv (prompt, label, category, pair), .txt"
    )
    what.add_argument("--label", default="benign", help="of the prompts of a .txt (default: %(default)s)")
    what.add_argument("--out", type=Path, required=True, help="the folder of the recording")
    what.add_argument(
        "--sites", default="default", help="such as double.*.image,single.37.image (default: the paper's)"
    )
    what.add_argument(
        "--buckets", default=DEFAULT_BUCKETS, help="of noise: a number, or edges in sigma (default: 4)"
    )
    what.add_argument("--seeds", type=int, default=1, help="pictures of each prompt (default: %(default)s)")
    what.add_argument("--first-seed", type=int, default=0)
    what.add_argument("--tokens-per-image", type=int, help="at one site and step (default: all)")
    what.add_argument("--cap", type=int, help="tokens of each site, bucket and label (default: no bound)")
    what.add_argument(
        "--dtype", default="bfloat16", help="bfloat16, float16 or float32 (default: %(default)s)"
    )
    hosted.add_sampling_arguments(parser)
    what.add_argument(
        "--samples-per-shard", type=int, default=16, help="pictures of a file (default: %(default)s)"
    )
    work = parser.add_argument_group("how it is run")
    work.add_argument(
        "--shard", metavar="I/N", help="this process' part of N (default: as its launcher says, or all)"
    )
    work.add_argument("--estimate", action="store_true", help="only say what it will take")


def run(arguments: argparse.Namespace) -> int:
    from ..training.recordings.launch import shard_named, take_own_device

    try:
        shard = shard_named(arguments.shard)
        if not arguments.cpu:
            take_own_device()
        hosted.require_model(arguments)
        hosted.boot(arguments)
        return _run(arguments, shard)
    except KeyboardInterrupt:
        print("\nStopped; the finished shards are kept, and the same command goes on.", file=sys.stderr)
        return 130
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace, shard: tuple[int, int]) -> int:
    from ..host.text import PromptEncoder
    from ..training.recordings import read_prompts, samples_of
    from ..training.recordings.asked import sites_named
    from ..training.recordings.run import estimated, record

    prompts = read_prompts(arguments.prompts, label=arguments.label)
    samples = samples_of(prompts, range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    model, clip = hosted.loaded(arguments)
    what = (
        model,
        PromptEncoder(clip),
        samples,
        sites_named(model, arguments.sites),
        _settings(model, arguments),
    )
    if arguments.estimate:
        print(estimated(*what, arguments.out, shard=shard))
        return 0
    from tqdm import tqdm  # comes with huggingface_hub

    with tqdm(unit="step", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        recording = record(
            *what,
            arguments.out,
            shard=shard,
            announce=lambda estimate: print(f"part {shard[0]} of {shard[1]}: {estimate}", flush=True),
            progress=progress,
        )
    if recording is None:
        print(f"{arguments.out}: this part is done; the others are not, or are elsewhere (see `merge`).")
    else:
        print(f"{arguments.out}\n{recording.manifest.summary()}")
    return 0


def _settings(model: Any, arguments: argparse.Namespace) -> Any:
    from ..training.recordings import Settings
    from ..training.recordings.asked import buckets_named

    return Settings(
        steps=arguments.steps,
        cfg=arguments.cfg,
        sampler=arguments.sampler,
        scheduler=arguments.scheduler,
        height=arguments.height,
        width=arguments.width,
        buckets=buckets_named(model, arguments.buckets),
        tokens_per_image=arguments.tokens_per_image,
        dtype=arguments.dtype,
        cap=arguments.cap,
        guidance=arguments.guidance,
        negative=arguments.negative,
        batch=arguments.batch,
        samples_per_shard=arguments.samples_per_shard,
    )
