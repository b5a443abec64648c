"""Runs interpreted_kernels.py: the interpreter has to be chosen before triton is imported, so in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

INSIDE = Path(__file__).with_name("interpreted_kernels.py")


@pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed; it comes with torch for CUDA"
)
def test_the_kernels_in_the_interpreter() -> None:
    # Not `python -m pytest`: that puts the root on the path, where our `nodes` would hide the host's.
    start = "import sys, pytest; sys.path.pop(0); sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", start, "-q", "--import-mode=importlib", "-p", "no:cacheprovider", INSIDE],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
