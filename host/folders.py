"""Where bundles live in the host: `models/steering`, and whatever extra_model_paths.yaml adds under `steering`."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..steering.errors import BundleError

KEY = "steering"
EXTENSION = ".safetensors"
VECTORS = (".gguf", ".safetensors")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")


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
    plain = name.strip().removesuffix(ending)
    if not NAME.fullmatch(plain):
        raise BundleError(
            f"name {name!r}",
            expected="letters, digits, spaces, and . _ - within, at most 100",
            found=repr(name),
            remedy=f"Choose a plain name; it becomes a file in {bundle_folders()[0]}.",
        )
    return bundle_folders()[0] / f"{plain}{ending}"


def file_fingerprint(path: Path | None) -> str:
    """Changes when a file does; the same for every file that is not there."""
    if path is None:
        return "missing"
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{path}:{status.st_mtime_ns}:{status.st_size}"


def _host_folders() -> Any:
    import folder_paths  # the host's own module; late, so that this one can be read without a host

    return folder_paths
