"""The benchmark's tables in the documents, from what run.py wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..processor import KINDS

FIGURES = {
    "erased": "erased",
    "unsafe": "unsafe",
    "match": "drawn as named",
    "identical": "identical to the bit",
    "artifacts": "artifacts",
}
OVERVIEW = {
    "unsafe": "prompts that name only it",
    "mixed": "prompts that name a benign thing beside it",
    "benign": "benign prompts",
    "instruction brings it in": "edits whose instruction brings it in",
    "reference has it": "edits of a reference that has it",
    "benign edit": "benign edits",
}
MATCHED = {
    "mixed": "benign thing kept in those",
    "benign": "benign prompts drawn as named",
    "benign edit": "benign edits carried out",
}
SHORT = (
    ("unsafe", "erased", "unsafe pictures erased"),
    ("mixed", "erased", "erased beside a benign thing"),
    ("mixed", "match", "benign thing kept there"),
    ("benign", "match", "benign prompts drawn as named"),
    ("benign", "identical", "benign pictures identical to the bit"),
    ("unsafe", "artifacts", "artifacts on unsafe prompts"),
)


def overview(found: Mapping[str, Any]) -> list[str]:
    """What a reader asks first: each set of prompts or instructions, without restriction and with it."""
    lines = ["| | base | restricted |", "|---|---|---|"]
    for part in ("generation", "editing"):
        rows = found[part]
        for prompts in rows["base"]["sets"] if "restriction" in rows else ():
            base, ours = (rows[name]["sets"].get(prompts) for name in ("base", "restriction"))
            if base is None or ours is None:
                continue
            what = OVERVIEW[prompts]
            if not prompts.startswith("benign"):
                lines.append(
                    f"| something unsafe shown, {what} | {_share(base['unsafe'])} | {_share(ours['unsafe'])} |"
                )
            if prompts in MATCHED:
                lines.append(f"| {MATCHED[prompts]} | {_share(base['match'])} | {_share(ours['match'])} |")
            if prompts.startswith("benign"):
                lines.append(f"| {what}: identical to the bit | | {_share(ours['identical'])} |")
    return [*lines, "", f"{found['n']} pictures a cell, ComfyUI {found['host']}."]


def restricted(found: Mapping[str, Any]) -> list[str]:
    """Generation, with intervals; then editing where it was measured."""
    lines: list[str] = []
    for part in ("generation", "editing"):
        rows = found[part]
        if not rows:
            continue
        head = [part, "prompts", *FIGURES.values()]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name, row in rows.items():
            for prompts, figures in row["sets"].items():
                cells = (_interval(figures.get(key)) for key in FIGURES)
                lines.append(f"| {name} | {prompts} | " + " | ".join(cells) + " |")
        lines.append("")
    return [*lines, f"{found['n']} pictures a cell, ComfyUI {found['host']}."]


def ablations(found: Mapping[str, Any]) -> list[str]:
    """c: the chosen way with one thing changed."""
    return list(_by_row(found["ablations"], "the chosen way, but"))


def stacked(found: Mapping[str, Any]) -> list[str]:
    """d: each alone and together."""
    return list(_by_row(found["stacks"], "what acts"))


def tried(found: Mapping[str, Any]) -> list[str]:
    """The ways that were compared on validation prompts."""
    lines = list(_by_row(found["tried"], "validation"))
    for number, row in found["tried"].items():
        if row["way"]:
            said = ", ".join(f"{key} {value}" for key, value in row["way"].items() if key != "anchored")
            lines.append(f"\n{number}: {said}")
    return lines


def overlap(found: Mapping[str, Any]) -> list[str]:
    """c: at each noise level, how well the mask lies on the oracle's boxes, and how much of them it covers."""
    traced = found["overlap"]
    if not traced:
        return []
    ways = traced["ways"]
    lines = ["| sigma | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for at, sigma in enumerate(traced["sigmas"]):
        cells = (
            f"IoU {steps[at]['box_iou']:.2f}, covers {steps[at]['covered']:.2f}, AUC {steps[at]['auc']:.2f}"
            for steps in ways.values()
        )
        lines.append(f"| {sigma:.3f} | " + " | ".join(cells) + " |")
    return [*lines, "", f"{traced['pictures']} pictures with something unsafe beside something benign."]


def cost(found: Mapping[str, Any]) -> list[str]:
    """e: each column as a multiple of plain attention, and its memory, by kind of processor."""
    lines: list[str] = []
    for kind, measured in found["cost"].items():
        words = f", {KINDS[kind][1]}" if kind in KINDS else ""
        lines += [f"{kind}{words} ({measured['processor']}):", ""]
        rows = measured["rows"]
        lines.append("| | " + " | ".join(f"{d}: time | {d}: memory, MB" for d in rows) + " |")
        lines.append("|---" * (2 * len(rows) + 1) + "|")
        for name in next(iter(rows.values()))["columns"]:
            cells: list[str] = []
            for row in rows.values():
                column = row["columns"][name]
                held = column["peak_bytes"]
                cells += [f"{row['over_plain'][name]:.3f} ×", "" if held is None else f"{held / 1e6:.0f}"]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def _by_row(rows: Mapping[str, Any], title: str) -> Iterator[str]:
    yield f"| {title} | " + " | ".join(words for *_, words in SHORT) + " |"
    yield "|---" * (len(SHORT) + 1) + "|"
    for name, row in rows.items():
        cells = (_share(row["sets"].get(prompts, {}).get(figure)) for prompts, figure, _ in SHORT)
        yield f"| {name} | " + " | ".join(cells) + " |"


def _share(figure: Mapping[str, Any] | None) -> str:
    """Empty where there is none, as of what is erased from benign pictures."""
    return f"{figure['value']:.1%}" if figure else ""


def _interval(figure: Mapping[str, Any] | None) -> str:
    return f"{_share(figure)} ({figure['low']:.1%} to {figure['high']:.1%})" if figure else ""
