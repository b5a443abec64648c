"""A benchmark's work folder: every expensive result under the hash of what it was made from, whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


class OutOfTime(Exception):
    """The budget is spent; what is finished stays."""


class Budget:
    """Minutes that may be spent; None is without end."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def spent(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def check(self) -> None:
        """Raises OutOfTime."""
        if self.spent():
            raise OutOfTime


class Store:
    """Results by kind and inputs. Processes that make different things can share one folder."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget = folder, budget

    def path(self, kind: str, inputs: Mapping[str, Any], suffix: str = "") -> Path:
        """Where the result of these inputs lies, or will lie."""
        said = json.dumps(_plain(inputs), sort_keys=True)
        return self.folder / kind / (hashlib.sha256(said.encode()).hexdigest()[:16] + suffix)

    def found(self, kind: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """A finished result, or None."""
        path = self.path(kind, inputs, ".json")
        return json.loads(path.read_text(encoding="utf-8"))["result"] if path.exists() else None

    def result(
        self, kind: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result of these inputs, made if it is not there yet.

        Raises:
            OutOfTime: it would have to be made, and the budget is spent.
        """
        known = self.found(kind, inputs)
        if known is not None:
            return known
        self.budget.check()
        began = time.monotonic()
        made = make() | {"took": round(time.monotonic() - began, 1)}
        path = self.path(kind, inputs, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"inputs": _plain(inputs), "result": made}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        return made


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
