"""Local language models that the host's folders hold: Hugging Face folders and GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..steering.errors import SteeringError

KEYS = ("LLM", "text_encoders")
"""Folders of models that are looked through; packs for language models use the first."""


def list_language_models() -> list[str]:
    """Names of what is there: paths within the folders, sorted."""
    return sorted(_found())


def resolve_language_model(name: str) -> Path:
    """The folder or file behind a name of `list_language_models`.

    Raises:
        SteeringError: there is none of that name.
    """
    found = _found()
    if name not in found:
        raise SteeringError(
            f"language model {name!r}",
            expected=f"one of {', '.join(sorted(found)) or 'models/LLM, where none is'}",
            found="none of that name",
            remedy="Put a Hugging Face folder (config.json, tokenizer, .safetensors) or a .gguf file into models/LLM "
            "and press R to refresh the list.",
        )
    return found[name]


def compute_device() -> Any:
    """Where the host runs text encoders."""
    import comfy.model_management

    return comfy.model_management.text_encoder_device()


def make_room(size: int) -> None:
    """Asks the host to unload what it must so that so many bytes fit on its device."""
    import comfy.model_management

    comfy.model_management.free_memory(size * 1.2, compute_device())


def _found() -> dict[str, Path]:
    import folder_paths  # the host's own module; late, so that this one can be read without a host

    folders = [Path(folder_paths.models_dir) / KEYS[0]]
    for key in KEYS:
        if key in folder_paths.folder_names_and_paths:
            folders += [Path(folder) for folder in folder_paths.get_folder_paths(key)]
    found: dict[str, Path] = {}
    for folder in dict.fromkeys(folders):
        for path in [*folder.glob("*"), *folder.glob("*/*")]:
            whole = path.is_dir() and (path / "config.json").is_file() and any(path.glob("*.safetensors"))
            if whole or (path.is_file() and path.suffix.lower() == ".gguf"):
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found
