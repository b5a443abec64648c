"""Checks of one path of the kernels in a process of its own: triton's interpreter has to be chosen before an import.

The process prints a line for each fault, and last how many calls it checked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from ...kernels.dispatch import VARIABLE

PATHS = ("reference", "cpu", "triton")
"""What a process can be asked to check; triton runs in its interpreter, on the CPU."""


def faults_of(module: str, path: str, *arguments: str) -> tuple[int, list[str]]:
    """How many calls `python -m module path arguments…` checked and what was wrong.

    Raises:
        RuntimeError: it ended before its last call.
    """
    # The interpreter is numpy, which warns of every NaN that is asked for.
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-m", module, path, *arguments]
    environment = os.environ | {VARIABLE: path} | ({"TRITON_INTERPRET": "1"} if path == "triton" else {})
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    *faults, last = done.stdout.splitlines() or [""]
    count, _, word = last.partition(" ")
    if word != "checked":
        raise RuntimeError(f"{' '.join(command)} ended before its last call")
    return int(count), faults


def reported(faults: Sequence[str | None]) -> int:
    """Prints what `faults_of` reads, of as many calls as there are entries; the status of the process."""
    wrong = [fault.replace("\n", " ") for fault in faults if fault]
    print("\n".join([*wrong, f"{len(faults)} checked"]))
    return 1 if wrong else 0
