"""Where the world's trained weights lie. ``STEERDIT_WORLD`` names another folder, as while they are being made.

What is not shipped is looked for where ``nox -s world`` makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

SHIPPED = Path(__file__).with_name("weights")
MADE = Path(__file__).parents[2] / ".nox" / "world" / "weights"
GENERATORS = {
    "flux": "generator",
    "sd3": "generator-sd3",
}  # by architecture; FLUX's is meant where none is named
FILES = {
    "generator": "emoji-scenes-flux.safetensors",
    "generator-sd3": "emoji-scenes-sd3.safetensors",
    "codec": "emoji-scenes-codec.safetensors",
    "oracle": "emoji-scenes-oracle.safetensors",
    "bundle": "emoji-scenes-flux-safety.safetensors",
    "editing": "emoji-scenes-flux-editing.safetensors",
}
EDITOR = "emoji-scenes-flux-edit.safetensors"  # the generator with "editing" added: as the host loads it
MAKING = {"generator-sd3": " -- --architecture sd3", "editing": " -- --editing"}


def folders() -> tuple[Path, ...]:
    """Where parts are looked for, in that order."""
    named = os.environ.get("STEERDIT_WORLD")
    return (SHIPPED, MADE) if named is None else (Path(named),)


def path(name: str) -> Path:
    """The file of a part of the world; says how to make it where it is missing."""
    places = [folder / FILES[name] for folder in folders()]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        making = "python -m nox -s world" + MAKING.get(name, "")
        raise FileNotFoundError(
            f"{places[0]} is missing: `{making}` makes it, or check out the repository with its weights"
        )
    return found


def editor(cache: Path = Path(".nox/editor")) -> Path:
    """The checkpoint of the generator that edits, put together from what is shipped where that has not been done."""
    from .editing.difference import digest, unpack

    found, generator, difference = cache / EDITOR, path("generator"), path("editing")
    made_of = {"generator": digest(generator), "editing": digest(difference)}
    if found.is_file():
        with safe_open(found, "pt") as file:
            if file.metadata() == made_of:
                return found
    cache.mkdir(parents=True, exist_ok=True)
    partial = found.with_suffix(f".{os.getpid()}.part")
    save_file(unpack(generator, difference), partial, made_of)
    partial.replace(found)
    return found


def ship(made: Path, *names: str) -> None:
    """Copy the freshly made among the weights into the repository and enter their sizes and hashes in the manifest.

    Args:
        names: which of FILES; all by default.
    """
    manifest = Path(__file__).parents[2] / "weights_manifest.json"
    body = json.loads(manifest.read_text())
    SHIPPED.mkdir(exist_ok=True)
    entries = {entry["file"]: entry for entry in body["weights"]}
    fresh = [FILES[name] for name in names or FILES if (made / FILES[name]).is_file()]
    if unlisted := [name for name in fresh if name not in entries]:
        raise LookupError(
            f"{manifest.name} lists no {unlisted[0]}: enter its name, licence and source there first"
        )
    for name in fresh:
        shutil.copy(made / name, SHIPPED / name)
        content, entry = (SHIPPED / name).read_bytes(), entries[name]
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest.write_text(json.dumps(body, indent=2) + "\n")
