"""The benchmark's tables in the documents, from what run.py wrote."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from .prompting import ATTACKS

SUMMARY = {
    "held-out risk shown, unsteered": ("base | target", "unsafe"),
    "with the source's bundle as it is": ("unadapted | blend | target", "unsafe"),
    "adapted to the held-out risk": ("SafeDIG | blend | target", "unsafe"),
    "with SAEs trained on the held-out risk too": ("upper bound | blend | target", "unsafe"),
    "source risks shown, unsteered": ("base | source", "unsafe"),
    "adapted to the held-out risk, source risks shown": ("SafeDIG | blend | source", "unsafe"),
    "benign thing kept beside the held-out risk, unsteered": ("base | mixed", "kept"),
    "benign thing kept beside the held-out risk, adapted": ("SafeDIG | blend | mixed", "kept"),
    "benign pictures identical to the bit, adapted": ("SafeDIG | blend | benign", "identical"),
}


def summary(found: dict[str, Any]) -> list[str]:
    """What a reader asks first: means over the categories held out, one column an architecture."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for name, of in found["rotations"].items():
        if all(cell in of["cells"] for cell, _ in SUMMARY.values()):
            columns.setdefault(name.split(".")[0], []).append(of["cells"])
    if not columns:
        return []
    lines = _head("", [f"{name}, {len(own)} categories held out in turn" for name, own in columns.items()])
    for said, (cell, key) in SUMMARY.items():
        means = (fmean(cells[cell][key]["value"] for cells in own) for own in columns.values())
        lines.append(f"| {said} | " + " | ".join(f"{mean:.1%}" for mean in means) + " |")
    return lines


def transfer(found: dict[str, Any]) -> list[str]:
    """The unsafe rate of the category that was held out, by arm and method, one column a rotation."""
    return _rates({name: of["cells"] for name, of in found["rotations"].items()}, ("target",))


def arms(found: dict[str, Any]) -> list[str]:
    """The same for all arms, over the first pictures of all rotations, one column an architecture."""
    return _rates({name: of["cells"] for name, of in found["pooled"].items()}, ("target",))


def attacks(found: dict[str, Any]) -> list[str]:
    """Under attack prompts, with and without the gate, over all rotations."""
    return _rates({name: of["cells"] for name, of in found["pooled"].items()}, ATTACKS)


def routing(found: dict[str, Any]) -> list[str]:
    """How well each variant of R says what was gained: Spearman, and whether its first is in the best quarter.

    Means over the rotations of an architecture come last.
    """
    rotations = {
        name: of["routing"]["variants"]
        for name, of in found["rotations"].items()
        if of["routing"].get("variants")
    }
    architectures = list(dict.fromkeys(name.split(".")[0] for name in rotations))
    lines = _head("weights of R", [*rotations, *(f"{name}, mean" for name in architectures)])
    for variant in dict.fromkeys(name for of in rotations.values() for name in of):
        cells = [
            f"{of[variant]['spearman']:.2f}{'' if of[variant]['top_in_best_quarter'] else ', first outside'}"
            for of in rotations.values()
        ]
        for own in architectures:
            found_there = [
                of[variant]["spearman"] for name, of in rotations.items() if name.split(".")[0] == own
            ]
            cells.append(f"{fmean(found_there):.2f}")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return lines


def differences(found: dict[str, Any]) -> list[str]:
    """What is set against SafeDIG without a bound, whichever way it falls."""
    lines = ["| architecture | compared | difference |", "|---|---|---|"]
    for architecture, of in found["pooled"].items():
        for part, rows in of["differences"].items():
            for name, d in rows.items():
                interval = f"{d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})"
                lines.append(f"| {architecture} | {part}: {name} | {interval} |")
    return lines


def _rates(columns: dict[str, Any], prompts: Sequence[str]) -> list[str]:
    columns = {name: cells for name, cells in columns.items() if cells}
    rows = dict.fromkeys(
        name for cells in columns.values() for name in cells if set(prompts) & set(name.split(" | ")[1:])
    )
    lines = _head("unsafe thing shown", list(columns))
    for row in rows:
        said = (_share(cells[row]["unsafe"]) if row in cells else "" for cells in columns.values())
        lines.append(f"| {row.replace(' | ', ', ')} | " + " | ".join(said) + " |")
    return lines


def _head(corner: str, names: Sequence[str]) -> list[str]:
    return [f"| {corner} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]


def _share(c: dict[str, float]) -> str:
    return f"{c['value']:.1%} ({c['low']:.1%} to {c['high']:.1%})"
