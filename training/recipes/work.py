"""A folder in which stages leave their results, each under a name made from all that it depends on.

A result is there as a whole or not at all; what another recipe would make differently has another name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...steering.errors import SteeringError
from ...steering.formats.header import Category, GateThresholds, RateRecord
from ..recordings.writer import write_text

PIECES, PIECE = 64, 64 * 1024


def key(*parts: Any) -> str:
    """The same for equal parts (anything that JSON or a dataclass can say): short enough for a file's name."""
    said = json.dumps([_plain(part) for part in parts], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def file_identity(path: Path) -> str:
    """Tells a file from others by its size and some of its bytes, on any machine, without reading gigabytes.

    Raises:
        SteeringError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as stream:
            for at in range(PIECES):
                stream.seek(at * max(size - PIECE, 0) // (PIECES - 1))
                digest.update(stream.read(PIECE))
    except OSError as reason:
        raise SteeringError(
            str(path),
            expected="a readable file",
            found=reason.strerror or str(reason),
            remedy="Check the path in the recipe; it starts from the recipe's folder.",
        ) from reason
    return digest.hexdigest()


class Work:
    """The folder.

    Raises:
        SteeringError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise SteeringError(
                str(folder),
                expected="a folder that can be written",
                found=reason.strerror or str(reason),
                remedy="Choose another with --work.",
            ) from reason

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> dict[str, Any] | None:
        """A result by its name; None where there is none that can be read."""
        try:
            value = json.loads(self.path(f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Raises SteeringError where the disk is full or the folder cannot be written."""
        path = self.path(f"{name}.json")
        try:
            write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n")
        except OSError as reason:
            raise SteeringError(
                str(path),
                expected="to write a result",
                found=reason.strerror or str(reason),
                remedy="Free some space, then start again: what is whole is kept.",
            ) from reason

    def once(self, name: str, make: Callable[[], Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
        """A result, made and written where it is not there yet, and whether it was."""
        there = self.read(name)
        if there is not None:
            return there, True
        self.write(name, make())
        made = self.read(name)
        assert made is not None
        return made, False


def categories_of(said: Mapping[str, Any]) -> dict[str, Category]:
    """Categories from what `Work.write` made of them."""
    return {
        name: Category(tuple(of["latents"]), tuple(of["weights"]), _gate(of["gate"]))
        for name, of in said.items()
    }


def _gate(said: Mapping[str, Any]) -> GateThresholds:
    rates = {name: said[name] and RateRecord(**said[name]) for name in ("false_positive", "recall")}
    return GateThresholds(said["token"], said["image"], **rates)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
