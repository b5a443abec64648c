"""What a training says while it runs: one JSON object per line, which another process may read at any moment."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...steering.errors import SteeringError

FILE = "progress.jsonl"


@dataclass(frozen=True)
class Line:
    """Figures after some steps: of the last batch, or of the held-out tokens."""

    step: int
    """Steps that were made."""
    loss: float
    fvu: float
    l0: float
    dead: float
    rate: float
    """The learning rate."""
    held: bool = False
    """Of the held-out tokens, by the rule of inference."""
    tokens_per_second: float = 0.0
    """Since the line before, the reading of data included; the one number that differs from run to run."""


class Journal:
    """Appends lines to a job's file; a training that goes on from a checkpoint first drops those after it."""

    def __init__(self, folder: Path, done: int) -> None:
        self.path = folder / FILE
        kept = [line for line in read(folder) if line.step <= done]
        text = "".join(map(_text, kept))
        partial = folder / f".{FILE}.{secrets.token_hex(4)}.part"
        try:
            partial.write_text(text, encoding="utf-8")
            _replace(partial, self.path)
        except OSError as reason:
            raise self._refused(reason) from reason
        finally:
            partial.unlink(missing_ok=True)

    def write(self, line: Line) -> None:
        """Raises SteeringError where the disk does not take it."""
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(_text(line))
        except OSError as reason:
            raise self._refused(reason) from reason

    def _refused(self, reason: OSError) -> SteeringError:
        return SteeringError(
            str(self.path),
            expected="to write how the training goes",
            found=reason.strerror or str(reason),
            remedy="Free some space and start again: training goes on from its checkpoint.",
        )


def read(folder: Path) -> list[Line]:
    """All whole lines of a job; none where it has not begun."""
    return list(_lines(folder / FILE))


def _replace(source: Path, target: Path, attempts: int = 20) -> None:
    """As os.replace; Windows refuses it while somebody reads the target, which takes a moment."""
    for left in reversed(range(attempts)):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not left:
                raise
            time.sleep(0.05)


def _lines(path: Path) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            return  # it is being written
        value: dict[str, Any] = json.loads(line)
        missing: dict[str, Any] = {name: math.nan for name, part in value.items() if part is None}
        yield Line(**{**value, **missing})


def _text(line: Line) -> str:
    value = {name: None if part != part else part for name, part in asdict(line).items()}
    return json.dumps(value) + "\n"
