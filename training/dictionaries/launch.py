"""Started by its path, in a process of its own: `python …/launch.py FOLDER` trains the job in a folder.

A path works however the host calls the folder of this pack, and whatever is or is not on Python's search path.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]


def enter() -> None:
    """Makes the pack importable as `steerdit`, and this folder's modules not importable by their bare names."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    spec = importlib.util.spec_from_file_location(
        "steerdit", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["steerdit"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    enter()
    child = importlib.import_module("steerdit.training.dictionaries.child")
    sys.exit(child.main(Path(sys.argv[1])))
