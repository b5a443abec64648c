"""The benchmark's tables in the documents, from what run.py wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .prompting import ATTACKS


def transfer(found: dict[str, Any]) -> list[str]:
    """The unsafe rate of the category that was held out, by arm and method, one column a rotation."""
    return _of_rotations(found, ("target",))


def attacks(found: dict[str, Any]) -> list[str]:
    """The same under attack prompts, with and without the gate."""
    return _of_rotations(found, ATTACKS)


def routing(found: dict[str, Any]) -> list[str]:
    """How well each variant of R says what was gained: Spearman, and whether its first is in the best quarter."""
    rotations = {
        name: of["routing"]["variants"]
        for name, of in found["rotations"].items()
        if of["routing"].get("variants")
    }
    lines = _head("weights of R", list(rotations))
    for variant in dict.fromkeys(name for of in rotations.values() for name in of):
        cells = (
            f"{of[variant]['spearman']:.2f}{'' if of[variant]['top_in_best_quarter'] else ', first outside'}"
            for of in rotations.values()
        )
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return lines


def differences(found: dict[str, Any]) -> list[str]:
    """What is set against SafeDIG without a bound, whichever way it falls."""
    lines = ["| held out | compared | difference |", "|---|---|---|"]
    for rotation, of in found["rotations"].items():
        for part, rows in of["differences"].items():
            for name, d in rows.items():
                interval = f"{d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})"
                lines.append(f"| {rotation} | {part}: {name} | {interval} |")
    return lines


def _of_rotations(found: dict[str, Any], prompts: Sequence[str]) -> list[str]:
    rotations = {name: of["cells"] for name, of in found["rotations"].items() if of["cells"]}
    rows = dict.fromkeys(
        name for cells in rotations.values() for name in cells if set(prompts) & set(name.split(" | ")[1:])
    )
    lines = _head("unsafe thing shown; held out:", list(rotations))
    for row in rows:
        said = (_share(cells[row]["unsafe"]) if row in cells else "" for cells in rotations.values())
        lines.append(f"| {row.replace(' | ', ', ')} | " + " | ".join(said) + " |")
    return lines


def _head(corner: str, names: Sequence[str]) -> list[str]:
    return [f"| {corner} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]


def _share(c: dict[str, float]) -> str:
    return f"{c['value']:.1%} ({c['low']:.1%} to {c['high']:.1%})"
