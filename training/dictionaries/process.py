"""Starts a training in a process of its own, watches it, and stops it; works alike on Linux, macOS and Windows."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ...steering.errors import SteeringError
from . import child, job, journal
from .journal import Line
from .launch import HERE
from .result import TrainedSAE

LOG = "log.txt"
PATIENCE = 60.0
"""Seconds that a training has to write its checkpoint when it is told to stop."""
POLL = 0.2


class Training:
    """A job's own process.

    Args:
        folder: of a prepared job (see `job.prepare`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(
            subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0
        )
        with (folder / LOG).open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "launch.py"), str(folder.absolute())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                creationflags=flags,
            )

    def running(self) -> bool:
        return self.process.poll() is None

    def lines(self) -> list[Line]:
        """What it has said so far, from the first step on."""
        return journal.read(self.folder)

    def stop(self, patience: float = PATIENCE) -> None:
        """Asks it to write its checkpoint and end; it is killed if it takes longer than ``patience`` seconds."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def result(self) -> TrainedSAE | None:
        """What came of it once it has ended; None where it was stopped.

        Raises:
            SteeringError: as the training refused, or with the end of its log where it broke down.
        """
        status = self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        if status == child.STOPPED:
            return None
        if status == child.DONE:
            return job.finished(self.folder)
        if status == child.FULL:
            raise SteeringError(
                str(self.folder),
                expected="a disk that takes what the training writes",
                found=f"{shutil.disk_usage(self.folder).free} bytes free, or a folder that cannot be written",
                remedy="Free some space and start again: training goes on from its checkpoint.",
            )
        raise child.read_error(self.folder) or SteeringError(
            str(self.folder / LOG),
            expected="a training that ends well",
            found=f"exit status {status}: {self._log_end()}",
            remedy="Start it again: it goes on from its checkpoint. If it ends so again, the log says more.",
        )

    def _log_end(self) -> str:
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines[-3:]) or "nothing was said"


def run(
    folder: Path,
    *,
    report: Callable[[list[Line]], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainedSAE | None:
    """Runs a prepared job in a process of its own and waits for it.

    Args:
        report: called with all lines whenever there are new ones.
        stop: asked a few times a second; when it says so, the training writes its checkpoint and ends.

    Returns:
        what came of it, or None where it was stopped.

    Raises:
        SteeringError: as `Training.result`.
    """
    there = job.finished(folder)
    if there is not None:
        if report is not None:
            report(journal.read(folder))
        return there
    training, seen = Training(folder), 0
    try:
        while True:
            running = training.running()
            lines = training.lines()
            if report is not None and len(lines) != seen:
                report(lines)
                seen = len(lines)
            if not running:
                return training.result()
            if stop():
                training.stop()
                return training.result() if training.process.returncode == child.DONE else None
            time.sleep(POLL)
    finally:
        if training.running():
            training.stop()
