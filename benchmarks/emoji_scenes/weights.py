"""Where the world's trained weights lie. ``STEERDIT_WORLD`` names another folder, as while they are being made."""

from __future__ import annotations

import os
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
        raise FileNotFoundError(f"{found} is missing: `python -m nox -s world` makes it, or check out the repository with its weights")
    return found
