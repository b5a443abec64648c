"""Where example workflows lie, and how they are written."""

from __future__ import annotations

import json
from pathlib import Path

from ..hosting.workflows import Json

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "example_workflows"


def read(file: Path) -> Json:
    """A committed workflow."""
    return json.loads(file.read_text(encoding="utf-8"))


def save(file: Path, workflow: Json) -> None:
    """Writes a workflow as the canvas takes it, and says where."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(workflow, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(file)
