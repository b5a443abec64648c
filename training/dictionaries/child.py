"""The inside of a training's own process: it stops when its standard input ends, and leaves its error as a file."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import torch

from ...steering.errors import SteeringError
from . import job
from .ranks import joined
from .training import Stopped

ERROR = "error.json"
DONE, FAILED, STOPPED, FULL = 0, 1, 3, 4
"""Exit statuses; FULL is FAILED where not even the reason could be written."""


def main(folder: Path) -> int:
    """Trains the job in a folder."""
    stop = threading.Event()
    # Ctrl-C in a terminal reaches us as well: our parent hears it, and closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_until_input_ends, args=(stop,), daemon=True).start()
    (folder / ERROR).unlink(missing_ok=True)
    with suppress(OSError, AttributeError):
        os.nice(5)  # the host's server comes first; Windows has no such call, the parent sees to it there
    try:
        asked = job.Job.parse((folder / job.FILE).read_bytes(), str(folder / job.FILE))
        torch.set_num_threads(max(1, asked.threads))
        with joined(asked.device) as (ranks, device):
            job.run(folder, ranks=ranks, device=device, stop=stop.is_set)
    except Stopped:
        return STOPPED
    except SteeringError as refusal:
        try:
            _write_error(folder, refusal)
            print(refusal, file=sys.stderr, flush=True)
        except OSError:
            os._exit(FULL)  # Python's own end would flush, fail again, and give another status
        return FAILED
    return DONE


def read_error(folder: Path) -> SteeringError | None:
    """What a training refused, or None."""
    try:
        said = json.loads((folder / ERROR).read_text(encoding="utf-8"))
        return SteeringError(
            said["where"], expected=said["expected"], found=said["found"], remedy=said["remedy"]
        )
    except (OSError, ValueError, KeyError):
        return None


def _until_input_ends(stop: threading.Event) -> None:
    # A pipe ends when the parent closes it, and also when the parent is no more, however it ended.
    # Not through sys.stdin: its lock, held by this thread, would keep the interpreter from ending.
    with suppress(OSError):
        while os.read(0, 1):
            pass
    stop.set()


def _write_error(folder: Path, refusal: SteeringError) -> None:
    said = {
        "where": refusal.where,
        "expected": refusal.expected,
        "found": refusal.found,
        "remedy": refusal.remedy,
    }
    partial = folder / f".{ERROR}.{secrets.token_hex(4)}.part"
    try:
        partial.write_text(json.dumps(said), encoding="utf-8")
        os.replace(partial, folder / ERROR)
    finally:
        partial.unlink(missing_ok=True)
