"""The files benchmarks leave: claims with bounds beside the raw rows, seeds, versions and commit."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..evaluation.rates import Rate
from .whole_files import write_text

OUT = Path(__file__).with_name("out")


@dataclass(frozen=True)
class Claim:
    """A figure held against its bound. ``ci`` is the 95 % interval where the figure has one."""

    value: float
    bound: str
    holds: bool
    n: int
    ci: tuple[float, float] | None = None


def at_most(r: Rate | float, bound: float, n: int = 0) -> Claim:
    """The claim that a figure is at most `bound`, in the figure's own unit; a rate brings its n and its interval.

    The figure itself is held against the bound, not the interval's far end. `n`: how many it was taken over, for a
    bare figure. A figure that is not a number fails.
    """
    return _claim(r, n, f"<= {bound:.4g}", lambda v: v <= bound)


def at_least(r: Rate | float, bound: float, n: int = 0) -> Claim:
    """The claim that a figure is at least `bound`; else as `at_most`."""
    return _claim(r, n, f">= {bound:.4g}", lambda v: v >= bound)


def _claim(r: Rate | float, n: int, bound: str, holds: Callable[[float], bool]) -> Claim:
    if isinstance(r, Rate):
        return Claim(r.value, bound, holds(r.value), r.n, (r.low, r.high))
    return Claim(r, bound, holds(r), n)


def versions(*packages: str) -> dict[str, str]:
    """Python's and the packages' versions; "absent" where one is not installed."""
    found = {"python": platform.python_version()}
    for p in packages:
        try:
            found[p] = version(p)
        except PackageNotFoundError:
            found[p] = "absent"
    return found


def commit() -> str:
    """The commit that the figures belong to, marked where the tree has changes."""
    here = Path(__file__).parent
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


def write(name: str, claims: Mapping[str, Claim], **rest: Any) -> Path:
    """Write ``benchmarks/out/NAME.json``."""
    return _save(name, {"claims": _plain(claims), **rest, "commit": commit()})


def read(name: str) -> dict[str, Any]:
    """``benchmarks/out/NAME.json``; empty where it is not there."""
    path = OUT / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def amend(name: str, letter: str, claims: Mapping[str, Claim], **parts: Any) -> Path:
    """Put the claims of one letter, and some parts, into ``benchmarks/out/NAME.json`` in place of those that it has.

    For what is measured apart from the rest, which stays, with the commit that it was made at. What the report says of
    the letter among what it leaves out goes.

    Raises:
        FileNotFoundError: there is no report.
    """
    body = read(name)
    if not body:
        raise FileNotFoundError(f"There is no {OUT / f'{name}.json'}; run the whole benchmark first.")
    if "left_out" in body:
        parts["left_out"] = [said for said in body["left_out"] if said.split(":")[0] != letter]
    others = {k: c for k, c in body["claims"].items() if k.split(".")[0] != letter}
    return _save(name, {**body, "claims": others | _plain(claims), **parts})


def _plain(claims: Mapping[str, Claim]) -> dict[str, Any]:
    return {k: asdict(c) for k, c in claims.items()}


def _save(name: str, body: Mapping[str, Any]) -> Path:
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.json"
    write_text(path, json.dumps(body, indent=1, sort_keys=False) + "\n")
    return path


def told(claims: Mapping[str, Claim], left_out: Iterable[str] = (), *, trial: bool = False) -> bool:
    """Print each claim with its figure and bound, and what is left out.

    Args:
        left_out: claims that a benchmark which goes on where it stopped cannot make yet.
        trial: sizes were so small that the figures say nothing of their bounds.

    Returns:
        Whether there are claims, all of them hold, and none is left out.
    """
    width = max(map(len, claims), default=0)
    for name, c in claims.items():
        word = "ran  " if trial else "holds" if c.holds else "FAILS"
        interval = f" ({c.ci[0]:.4g} to {c.ci[1]:.4g})" if c.ci is not None else ""
        print(f"{word}  {name:<{width}}  {c.value:.4g}{interval}, wanted {c.bound}, n {c.n}", flush=True)
    missing = list(left_out)
    for name in missing:
        print(f"left out  {name}")
    failed = sum(not c.holds for c in claims.values())
    if failed and not trial:
        print(f"{failed} of {len(claims)} claims do not hold.")
    return bool(claims) and not missing and not failed
