"""A training's whole state in one safetensors file, which is replaced in one stroke or not at all."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.formats.container import read_container, write_container

FILE = "checkpoint.safetensors"
KEY = "steerdit_training"
VERSION = 1

KINDS = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


@dataclass
class Progress:
    """Where a training is, beside its tensors. Randomness needs no state: each epoch's order follows from the seed."""

    done: int = 0
    """Steps that were made."""
    epoch: int = 0
    position: int = 0
    """Batches of the epoch that were taken."""
    best: float = float("inf")
    """The lowest held-out FVU so far."""
    waited: int = 0
    """Evaluations since it last fell enough."""
    scale: float = 1.0


def save(folder: Path, tensors: dict[str, Tensor], progress: Progress, identity: str) -> None:
    """Writes the checkpoint of a job. A crash at any moment leaves the one before.

    Args:
        identity: of configuration and data: only a training with an equal one goes on from here.

    Raises:
        SteeringError: the disk does not take it; the checkpoint before is still there.
    """
    target = folder / FILE
    partial = folder / f".{FILE}.{secrets.token_hex(4)}.part"
    value = {**asdict(progress), "best": None if progress.best == float("inf") else progress.best}
    text = json.dumps({"version": VERSION, "identity": identity, "progress": value})
    contents = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        contents[name] = (
            KINDS[plain.dtype],
            tuple(plain.shape),
            plain.flatten().view(torch.uint8).numpy().data,
        )
    try:
        write_container(partial, {KEY: text}, contents)
        os.replace(partial, target)
        _flush(folder)
    except OSError as reason:
        raise SteeringError(
            str(target),
            expected=f"to write {sum(len(it[2]) for it in contents.values()) / 1e6:.0f} MB",
            found=reason.strerror or str(reason),
            remedy="Free some space and start again: training goes on from the checkpoint before.",
        ) from reason
    finally:
        partial.unlink(missing_ok=True)


def load(folder: Path, identity: str) -> tuple[dict[str, Tensor], Progress] | None:
    """The tensors and the place of a job's checkpoint, or None where there is none.

    Raises:
        SteeringError: it is damaged, or of another training.
    """
    path = folder / FILE
    if not path.exists():
        return None
    remedy = "Choose another job folder, or delete this file to begin anew."
    try:
        container = read_container(path)
    except SteeringError as reason:
        raise SteeringError(
            reason.where, expected=reason.expected, found=reason.found, remedy=remedy
        ) from reason
    try:
        said: dict[str, Any] = json.loads(container.metadata[KEY])
        place = dict(said["progress"])
        place["best"] = float("inf") if place["best"] is None else place["best"]
        progress = Progress(**place)
        found, version = said["identity"], said["version"]
    except (KeyError, TypeError, ValueError) as reason:
        raise SteeringError(str(path), expected="a checkpoint", found=str(reason), remedy=remedy) from reason
    if version != VERSION or found != identity:
        raise SteeringError(
            str(path),
            expected="a checkpoint of this very configuration and recording",
            found="one of another training" if version == VERSION else f"version {version}",
            remedy=remedy,
        )
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in container.tensors}
    return tensors, progress


def tidy(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left: each may be as large as a checkpoint."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Makes a rename last through a loss of power, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
