"""`python -m steerdit record`: records a model's activations without a server.

Launched many times at once (torchrun, srun, mpirun, Ray Train), each process takes its part of the shards. Where all
write to one folder, the last one finishes the recording; otherwise `python -m steerdit merge` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..host import headless
from ..steering.errors import SteeringError

DEFAULT_BUCKETS = "4"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the host and the model are."""
    host = parser.add_argument_group("host")
    host.add_argument(
        "--comfyui", type=Path, help=f"its folder (default: {headless.VARIABLE}, or where this pack is)"
    )
    host.add_argument("--cpu", action="store_true", help="without a GPU")
    host.add_argument(
        "--host-argument",
        action="append",
        default=[],
        metavar="ARGUMENT",
        help="of ComfyUI's own, such as --lowvram",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--checkpoint", type=Path, help="one file with model and text encoders")
    model.add_argument("--diffusion-model", type=Path, help="the model alone")
    model.add_argument(
        "--text-encoder",
        type=Path,
        action="append",
        default=[],
        help="beside --diffusion-model; give each once",
    )
    model.add_argument(
        "--clip-type", default="flux", help="of the text encoders: flux, sd3 (default: %(default)s)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
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
    add_sampling_arguments(parser)
    what.add_argument(
        "--samples-per-shard", type=int, default=16, help="pictures of a file (default: %(default)s)"
    )
    work = parser.add_argument_group("how it is run")
    work.add_argument(
        "--shard", metavar="I/N", help="this process' part of N (default: as its launcher says, or all)"
    )
    work.add_argument("--estimate", action="store_true", help="only say what it will take")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How pictures are sampled."""
    how = parser.add_argument_group("how it is sampled")
    how.add_argument("--steps", type=int, default=20)
    how.add_argument("--cfg", type=float, default=1.0)
    how.add_argument("--guidance", type=float, help="FLUX's distilled guidance")
    how.add_argument("--sampler", default="euler")
    how.add_argument("--scheduler", default="simple")
    how.add_argument("--width", type=int, default=1024)
    how.add_argument("--height", type=int, default=1024)
    how.add_argument("--negative", default="", help="the negative prompt, where cfg is above 1")
    how.add_argument("--batch", type=int, default=4, help="pictures at once (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from ..training.recordings.launch import shard_named, take_own_device

    try:
        shard = shard_named(arguments.shard)
        if not arguments.cpu:
            take_own_device()
        given = (["--cpu"] if arguments.cpu else []) + arguments.host_argument
        require_model(arguments)
        headless.boot(arguments.comfyui, given)
        return _run(arguments, shard)
    except KeyboardInterrupt:
        print("\nStopped; the finished shards are kept, and the same command goes on.", file=sys.stderr)
        return 130
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1


def require_model(arguments: argparse.Namespace) -> None:
    """A SteeringError unless a checkpoint, or a model with its text encoders, is named."""
    whole, parts = arguments.checkpoint is not None, arguments.diffusion_model is not None
    if whole == parts or parts == (not arguments.text_encoder):
        raise SteeringError(
            "--checkpoint or --diffusion-model",
            expected="a checkpoint alone, or a diffusion model and its text encoders",
            found="both or neither" if whole == parts else "text encoders without need, or none",
            remedy="For example --diffusion-model flux1-dev.safetensors --text-encoder clip_l.safetensors "
            "--text-encoder t5xxl_fp16.safetensors.",
        )


def _run(arguments: argparse.Namespace, shard: tuple[int, int]) -> int:
    from ..host.text import PromptEncoder
    from ..training.recordings import read_prompts, samples_of
    from ..training.recordings.asked import sites_named
    from ..training.recordings.run import estimated, record

    prompts = read_prompts(arguments.prompts, label=arguments.label)
    samples = samples_of(prompts, range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    model, clip = loaded(arguments)
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


def loaded(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The ModelPatcher and the CLIP object that are named."""
    import torch

    with torch.inference_mode():  # as the host's loader nodes run
        if arguments.checkpoint is not None:
            return headless.load_checkpoint(arguments.checkpoint)
        clip = headless.load_text_encoders(arguments.text_encoder, arguments.clip_type)
        return headless.load_model(arguments.diffusion_model), clip


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
