"""The nodes that people drag: one module per task, no mathematics, no host internals."""

from __future__ import annotations

from typing import Any

NODES: list[type[Any]] = []
