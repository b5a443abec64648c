"""Text files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Writes one JSON object a line → how many."""
    lines = [json.dumps(row) + "\n" for row in rows]
    write_text(path, "".join(lines))
    return len(lines)


def write_text(path: Path, text: str) -> None:
    """Writes under another name and renames."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
