"""The host without a server: put on the path and started in this process, and its loaders by file."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..steering.errors import SteeringError
from .version import host_version

VARIABLE = "STEERDIT_COMFYUI"
PACK = Path(__file__).resolve().parents[1]
INSTALLED_IN = PACK.parents[1]
"""ComfyUI's own folder, where the pack lies in its custom_nodes."""


def find_host(folder: str | os.PathLike[str] | None = None) -> Path:
    """ComfyUI's folder: the one that is named, or STEERDIT_COMFYUI, or the one that the pack is installed in.

    Raises:
        SteeringError: there is no ComfyUI.
    """
    named = folder or os.environ.get(VARIABLE) or INSTALLED_IN
    path = Path(named).resolve()
    if not (path / "comfy" / "sd.py").exists():
        raise SteeringError(
            "--comfyui" if folder else VARIABLE,
            expected="the folder of a ComfyUI, with comfy/sd.py in it",
            found=str(path),
            remedy=f"Name it with --comfyui FOLDER or the variable {VARIABLE}.",
        )
    return path


def boot(folder: str | os.PathLike[str] | None = None, arguments: Sequence[str] = ()) -> str:
    """Brings the host into this process → its version. Call before anything imports ``comfy``.

    Args:
        arguments: of the host's own command line, such as ``--cpu``.

    Raises:
        SteeringError: there is no ComfyUI.
    """
    sys.path.insert(0, str(find_host(folder)))
    argv, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # reads them  # pyright: ignore[reportUnusedImport]
    finally:
        sys.argv = argv
    return host_version()


def load_model(path: str | os.PathLike[str]) -> Any:
    """A diffusion model's file through the code behind *Load Diffusion Model* → its ModelPatcher."""
    import comfy.sd

    return comfy.sd.load_diffusion_model(_existing(path))


def load_text_encoders(paths: Sequence[str | os.PathLike[str]], kind: str) -> Any:
    """Text encoders' files through the code behind *Load CLIP* → the CLIP object.

    Args:
        kind: as the node calls it: `flux` or `sd3`.

    Raises:
        SteeringError: a file is missing, or the host has no such kind.
    """
    import comfy.sd

    kinds = {one.name.lower(): one for one in comfy.sd.CLIPType}
    if kind.lower() not in kinds:
        raise SteeringError(
            "--clip-type",
            expected=f"one of {', '.join(kinds)}",
            found=repr(kind),
            remedy="Choose the kind of the model: flux or sd3.",
        )
    return comfy.sd.load_clip([_existing(path) for path in paths], clip_type=kinds[kind.lower()])


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """A checkpoint's file through the code behind *Load Checkpoint* → its ModelPatcher and its CLIP object.

    Raises:
        SteeringError: it has no text encoder.
    """
    import comfy.sd

    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(_existing(path), output_vae=False)
    if model is None or clip is None or clip.cond_stage_model is None:
        raise SteeringError(
            str(path),
            expected="a checkpoint with a diffusion model and text encoders",
            found="one without",
            remedy="Name the diffusion model with --diffusion-model and its text encoders with --text-encoder.",
        )
    return model, clip


def load_vae(path: str | os.PathLike[str]) -> Any:
    """The VAE of a file of its own, or of a checkpoint, as the host's object."""
    import comfy.sd
    import comfy.utils

    state = comfy.utils.load_torch_file(_existing(path))
    whole = any(key.startswith("first_stage_model.") for key in state)
    return comfy.sd.load_checkpoint_guess_config(str(path))[2] if whole else comfy.sd.VAE(sd=state)


def unload_models() -> None:
    """Gives back the memory of every model that the host has loaded and that nobody holds any more."""
    import comfy.model_management

    gc.collect()
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def _existing(path: str | os.PathLike[str]) -> str:
    if not Path(path).is_file():
        raise SteeringError(
            str(path), expected="a file", found="none of that name", remedy="Check the path of the weights."
        )
    return str(path)
