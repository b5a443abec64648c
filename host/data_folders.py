"""Where the host keeps what people give and what is made for them: lists of prompts, and recordings."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..steering.errors import SteeringError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")


def list_inputs(suffixes: Collection[str]) -> list[str]:
    """Files with such endings in the host's input folder, by their paths in it, sorted."""
    folder = Path(_host_folders().get_input_directory())
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file()
    )


def resolve_input(name: str, suffixes: Collection[str]) -> Path:
    """The file behind a name of `list_inputs`.

    Raises:
        SteeringError: there is none of that name in the input folder.
    """
    if name not in list_inputs(suffixes):
        folder = _host_folders().get_input_directory()
        raise SteeringError(
            f"file {name!r}",
            expected=f"a file ending in {', '.join(suffixes)} in {folder}",
            found="none of that name",
            remedy="Put the file there and press R to refresh the list.",
        )
    return Path(_host_folders().get_input_directory()) / name


def recordings_folder() -> Path:
    """Where recordings go."""
    return Path(_host_folders().get_output_directory()) / "steerdit" / "recordings"


def adaptations_folder() -> Path:
    """Where adaptations of decoders keep their checkpoints, each in a folder of its own."""
    return Path(_host_folders().get_output_directory()) / "steerdit" / "adaptations"


def training_folder(name: str) -> Path:
    """The folder of a training of that name, there or not.

    Raises:
        SteeringError: the name could lead elsewhere.
    """
    recording_folder(name)
    return Path(_host_folders().get_output_directory()) / "steerdit" / "trainings" / name


def recording_folder(name: str) -> Path:
    """The folder of a recording of that name, there or not.

    Raises:
        SteeringError: the name could lead elsewhere.
    """
    if not NAME.fullmatch(name.strip()):
        raise SteeringError(
            f"name {name!r}",
            expected="letters, digits, spaces, and . _ - within, at most 100",
            found=repr(name),
            remedy="Choose a plain name; it becomes a folder in the host's output folder.",
        )
    return recordings_folder() / name.strip()


def list_recordings(manifest: str) -> list[str]:
    """Names of the recordings that have this file, sorted."""
    folder = recordings_folder()
    return sorted(path.parent.name for path in folder.glob(f"*/{manifest}")) if folder.exists() else []


def _host_folders() -> Any:
    import folder_paths  # the host's own module; late, so that this one can be read without a host

    return folder_paths
