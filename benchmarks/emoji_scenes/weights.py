"""Where the world's trained weights lie. ``STEERDIT_WORLD`` names another folder, as while they are being made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

SHIPPED = Path(__file__).with_name("weights")
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
}


def folder() -> Path:
    return Path(os.environ.get("STEERDIT_WORLD", SHIPPED))


def path(name: str) -> Path:
    """The file of a part of the world; says how to make it where it is missing."""
    found = folder() / FILES[name]
    if not found.is_file():
        making = "python -m nox -s world" + (" -- --architecture sd3" if name == "generator-sd3" else "")
        raise FileNotFoundError(
            f"{found} is missing: `{making}` makes it, or check out the repository with its weights"
        )
    return found


def ship(made: Path) -> None:
    """Copy the freshly made among the weights into the repository and enter their sizes and hashes in the manifest."""
    manifest = Path(__file__).parents[2] / "weights_manifest.json"
    body = json.loads(manifest.read_text())
    SHIPPED.mkdir(exist_ok=True)
    entries = {entry["file"]: entry for entry in body["weights"]}
    fresh = [name for name in FILES.values() if (made / name).is_file()]
    if unlisted := [name for name in fresh if name not in entries]:
        raise LookupError(
            f"{manifest.name} lists no {unlisted[0]}: enter its name, licence and source there first"
        )
    for name in fresh:
        shutil.copy(made / name, SHIPPED / name)
        content, entry = (SHIPPED / name).read_bytes(), entries[name]
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest.write_text(json.dumps(body, indent=2) + "\n")
