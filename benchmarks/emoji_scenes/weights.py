"""Where the world's trained weights lie. ``STEERDIT_WORLD`` names another folder, as while they are being made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

SHIPPED = Path(__file__).with_name("weights")
FILES = {
    "generator": "emoji-scenes-flux.safetensors",
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
        raise FileNotFoundError(
            f"{found} is missing: `python -m nox -s world` makes it, or check out the repository with its weights"
        )
    return found


def ship(made: Path) -> None:
    """Copy freshly made weights into the repository and enter their sizes and hashes in the manifest."""
    manifest = Path(__file__).parents[2] / "weights_manifest.json"
    body = json.loads(manifest.read_text())
    SHIPPED.mkdir(exist_ok=True)
    for name in FILES.values():
        shutil.copy(made / name, SHIPPED / name)
        content = (SHIPPED / name).read_bytes()
        entry = next(e for e in body["weights"] if e["file"] == name)
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest.write_text(json.dumps(body, indent=2) + "\n")
