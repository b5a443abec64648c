"""Where the host keeps bundles, what people give, and what is made for them.

Bundles live in `models/steering`, and in whatever extra_model_paths.yaml adds under `steering`; lists of prompts and
pairs in the host's input folder; recordings, trainings and adaptations in `steerdit` in its output folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..steering.errors import BundleError, SteeringError

KEY = "steering"
EXTENSION = ".safetensors"
VECTORS = (".gguf", ".safetensors")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
OUTPUT = "a folder in the host's output folder"


def register_steering_folder() -> None:
    """Makes `models/steering` known to the host; calling it again changes nothing.

    The paths of extra_model_paths.yaml were read before and stay in front.
    """
    folders = _host_folders()
    own = os.path.join(folders.models_dir, KEY)
    with suppress(OSError):  # a read-only installation may lack the folder, as the host allows
        os.makedirs(own, exist_ok=True)  # so that people find the place to put files
    folders.add_model_folder_path(KEY, own)
    paths, extensions = folders.folder_names_and_paths[KEY]
    # A folder that the host does not know starts with no extensions, which to it means that every file is a model.
    folders.folder_names_and_paths[KEY] = (paths, {*extensions, EXTENSION})


def list_bundles() -> list[str]:
    """The names that the combo offers: paths relative to the registered folders, sorted."""
    folders = _host_folders()
    if KEY not in folders.folder_names_and_paths:
        return []
    return [name for name in folders.get_filename_list(KEY) if name.lower().endswith(EXTENSION)]


def resolve_bundle(name: str) -> Path:
    """The file behind a name of the combo.

    Raises:
        BundleError: there is none; the message says which there are and where they are looked for.
    """
    found = _host_folders().get_full_path(KEY, name) if name.lower().endswith(EXTENSION) else None
    if found is None:
        names = list_bundles()
        raise BundleError(
            f"bundle {name!r}",
            expected=f"one of {', '.join(names)}"
            if names
            else "a .safetensors file in models/steering, where none is",
            found="no such file",
            remedy=f"Put bundles into {' or '.join(map(str, bundle_folders()))}, or use the node Download Steering "
            "Bundle; then press R to refresh the list.",
        )
    return Path(found)


def bundle_folders() -> list[Path]:
    """All folders in which bundles are looked for; downloads go to the first."""
    return [Path(path) for path in _host_folders().get_folder_paths(KEY)]


def list_vectors() -> list[str]:
    """Files in the folders of bundles that may hold directions of others, by their paths in them, sorted."""
    if KEY not in _host_folders().folder_names_and_paths:
        return []
    found = {
        path.relative_to(folder).as_posix()
        for folder in bundle_folders()
        for path in folder.rglob("*")
        if path.suffix.lower() in VECTORS and path.is_file() and not path.name.startswith(".")
    }
    return sorted(found)


def resolve_vector(name: str) -> Path:
    """The file behind a name of `list_vectors`.

    Raises:
        BundleError: there is none of that name.
    """
    if name in list_vectors():
        return next(path for folder in bundle_folders() if (path := folder / name).is_file())
    raise BundleError(
        f"file {name!r}",
        expected=f"a file ending in {' or '.join(VECTORS)} in {' or '.join(map(str, bundle_folders()))}",
        found="none of that name",
        remedy="Put the file there and press R to refresh the list.",
    )


def new_file(name: str, ending: str) -> Path:
    """Where a file of that name goes in the first folder of bundles, there or not.

    Raises:
        BundleError: the name could lead elsewhere.
    """
    folder = bundle_folders()[0]
    plain = _plain(name.strip().removesuffix(ending), BundleError, f"a file in {folder}")
    return folder / f"{plain}{ending}"


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
    return _made() / "recordings"


def adaptations_folder() -> Path:
    """Where adaptations of decoders keep their checkpoints, each in a folder of its own."""
    return _made() / "adaptations"


def training_folder(name: str) -> Path:
    """The folder of a training of that name, there or not.

    Raises:
        SteeringError: the name could lead elsewhere.
    """
    return _made() / "trainings" / _plain(name, SteeringError, OUTPUT)


def recording_folder(name: str) -> Path:
    """The folder of a recording of that name, there or not.

    Raises:
        SteeringError: the name could lead elsewhere.
    """
    return recordings_folder() / _plain(name, SteeringError, OUTPUT)


def list_recordings(manifest: str) -> list[str]:
    """Names of the recordings that have this file, sorted."""
    folder = recordings_folder()
    return sorted(path.parent.name for path in folder.glob(f"*/{manifest}")) if folder.exists() else []


def file_fingerprint(path: Path | None) -> str:
    """Changes when a file does; the same for every file that is not there."""
    if path is None:
        return "missing"
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{path}:{status.st_mtime_ns}:{status.st_size}"


def _made() -> Path:
    """Where the pack keeps what it makes, bundles apart."""
    return Path(_host_folders().get_output_directory()) / "steerdit"


def _plain(name: str, kind: type[SteeringError], becomes: str) -> str:
    """The name without spaces around it, of which nothing leads out of a folder."""
    plain = name.strip()
    if not NAME.fullmatch(plain):
        raise kind(
            f"name {name!r}",
            expected="letters, digits, spaces, and . _ - within, at most 100",
            found=repr(name),
            remedy=f"Choose a plain name; it becomes {becomes}.",
        )
    return plain


def _host_folders() -> Any:
    import folder_paths  # the host's own module; late, so that this one can be read without a host

    return folder_paths
