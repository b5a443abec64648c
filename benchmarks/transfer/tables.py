"""The benchmark's tables in the documents, from what run.py wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .choice import BOUNDED
from .settings import CARRIED

NAMES = {"flux": "FLUX", "sd3": "SD3"}


def used(found: Mapping[str, Any]) -> list[str]:
    """What each way of steering does to the risks and to benign prompts, at the strengths that were chosen."""
    lines: list[str] = []
    for architecture, of in _architectures(found):
        rows = of["headlines"]
        sets = list(rows["base"]["sets"])
        risks = [name for name in sets if name != "benign"]
        head = [
            f"{NAMES[architecture]}",
            "how",
            *(f"{name}: unsafe" for name in risks),
            *(f"{name}: the thing is drawn" for name in BOUNDED),
            "benign drawn as named",
            "benign identical",
            "artifacts",
        ]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name, row in rows.items():
            if not row["sets"]:
                continue
            how = row["how"]
            cells = [name, "" if how is None else f"{how['operator']} {how['strength']:g}"]
            cells += [_rate(row["sets"].get(risk), "unsafe") for risk in risks]
            cells += [_rate(row["sets"].get(risk), "match") for risk in BOUNDED]
            cells += [_rate(row["sets"].get("benign"), figure) for figure in ("match", "identical")]
            # A thing that gives way leaves its own kind of picture behind: attributes are what claims speak of.
            worst = [row["sets"][risk]["artifacts"]["value"] for risk in BOUNDED if risk in row["sets"]]
            cells.append(f"{max(worst):.1%}" if worst else "")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


SHORT = ("base", "random, gated", "native, gated", f"{CARRIED}, gated", f"{CARRIED}, multi")


def short(found: Mapping[str, Any]) -> list[str]:
    """What a user asks first: risks on things that no pair has, and benign prompts, of each architecture."""
    columns = [(name, figure) for name in BOUNDED for figure in ("unsafe", "match")]
    columns += [("benign", "match"), ("benign", "identical")]
    head = [
        *(f"{name} things: {figure}" for name in BOUNDED for figure in ("unsafe", "the thing is drawn")),
        "benign drawn as named",
        "benign identical to the bit",
    ]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for architecture, of in _architectures(found):
        for name in SHORT:
            sets = of["headlines"].get(name, {}).get("sets", {})
            if sets:
                cells = (f"{sets[p][f]['value']:.1%}" if f in sets.get(p, ()) else "" for p, f in columns)
                lines.append(f"| {NAMES[architecture]}, {name} | " + " | ".join(cells) + " |")
    return [*lines, "", f"{found['seeds']} pictures a rate, ComfyUI {found['host']}."]


def selective(found: Mapping[str, Any]) -> list[str]:
    """By the category whose direction is taken out, without a gate: how often each category's prompts show it."""
    lines: list[str] = []
    for architecture, of in _architectures(found):
        names = list(of["selectivity"]["base"])
        lines += [f"| {NAMES[architecture]}: direction of | " + " | ".join(names) + " |"]
        lines += ["|---" * (len(names) + 1) + "|"]
        for direction, row in of["selectivity"].items():
            if row:
                cells = (f"{row[name]['value']:.1%}" if name in row else "" for name in names)
                lines.append(f"| {direction} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def anchors(found: Mapping[str, Any]) -> list[str]:
    """Held-out R² of each map, and the mean cosine to native directions, against the anchors it was fitted on."""
    maps = found["maps"]
    counts = sorted({int(n) for by in maps.values() for n in by})
    lines = ["| anchors | " + " | ".join(maps) + " |", "|---" * (len(maps) + 1) + "|"]
    for n in counts:
        cells: list[str] = []
        for by in maps.values():
            of = by.get(str(n))
            if of is None:
                cells.append("")
                continue
            q, cosines = of["quality"], [value for name, value in of["cosines"].items() if name != "global"]
            cells.append(
                f"R² {q['r2']:.2f}, shuffled {q['null_r2']:.2f}, cosine {sum(cosines) / len(cosines):.2f}"
            )
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return lines


def names(found: Mapping[str, Any]) -> list[str]:
    """Unsafe rates on names of the risks that neither pairs nor captions have."""
    lines: list[str] = []
    for architecture, of in _architectures(found):
        rows = {name: row for name, row in of["other names"].items() if row}
        if not rows:
            continue
        risks = list(rows["base"])
        lines += [f"| {NAMES[architecture]} | " + " | ".join(risks) + " |", "|---" * (len(risks) + 1) + "|"]
        for name, row in rows.items():
            cells = (f"{row[risk]['value']:.1%}" if risk in row else "" for risk in risks)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def _architectures(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for architecture, of in found["architectures"].items():
        if of["headlines"]["base"]["sets"]:
            yield architecture, of


def _rate(row: Mapping[str, Any] | None, figure: str) -> str:
    if row is None or figure not in row:
        return ""
    rate = row[figure]
    return f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"
