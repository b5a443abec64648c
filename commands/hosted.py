"""What commands that run in the host ask alike: where it is, which model it loads, how pictures are sampled."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..host import headless
from ..steering.errors import SteeringError


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the host is, and how it is started."""
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


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which files are loaded: `require_model` checks them, `loaded` gives them."""
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
        "--clip-type",
        default="flux",
        help="of the text encoders: flux, sd3, qwen_image (default: %(default)s)",
    )


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


def boot(arguments: argparse.Namespace) -> None:
    """Brings the host into this process, as `add_host_arguments` asked.

    Raises:
        SteeringError: there is no ComfyUI.
    """
    headless.boot(arguments.comfyui, (["--cpu"] if arguments.cpu else []) + arguments.host_argument)


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


def loaded(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The ModelPatcher and the CLIP object that are named."""
    import torch

    with torch.inference_mode():  # as the host's loader nodes run
        if arguments.checkpoint is not None:
            return headless.load_checkpoint(arguments.checkpoint)
        clip = headless.load_text_encoders(arguments.text_encoder, arguments.clip_type)
        return headless.load_model(arguments.diffusion_model), clip
