"""How long things take beside each other, and how much memory they touch: wall time, in rounds, in one process."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Timing:
    """Seconds of one column over all rounds."""

    median: float
    low: float
    """first quartile"""
    high: float
    """third quartile"""
    rounds: int
    peak_bytes: int | None
    """Memory beyond what was there before, in one call; None where the system does not say."""


def beside_each_other(columns: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Times the columns in turns, so that whatever slows the machine for a while slows all of them.

    The order is drawn anew for each round, alike in every run: what a column leaves (a hot processor, cold caches)
    meets all others. One call of each goes before, unmeasured; one more measures memory.
    """
    order, draw = list(columns), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in columns}
    peaks = {name: (run(), peak_bytes(run))[1] for name, run in columns.items()}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            began = time.perf_counter()
            columns[name]()
            seconds[name].append(time.perf_counter() - began)
    return {
        name: Timing(statistics.median(each), *_quartiles(each), rounds=rounds, peak_bytes=peaks[name])
        for name, each in seconds.items()
    }


def ratio(timings: Mapping[str, Timing], above: str, below: str) -> float:
    """The median of one column over the median of another."""
    return timings[above].median / timings[below].median


def described(timings: Mapping[str, Timing], **sizes: Any) -> dict[str, Any]:
    """Timings as a results file has them, after the sizes of what was timed."""
    return {**sizes, "columns": {name: asdict(timing) for name, timing in timings.items()}}


def peak_bytes(run: Callable[[], object]) -> int | None:
    """How far resident memory rises above its start while `run` runs (Linux)."""
    try:
        (PROCESS / "clear_refs").write_text("5")
        before = _resident("VmRSS")
        run()
        return max(0, _resident("VmHWM") - before)
    except OSError:
        return None


def _resident(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _quartiles(seconds: list[float]) -> tuple[float, float]:
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return first, third
