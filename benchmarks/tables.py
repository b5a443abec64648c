"""Writes the tables of figures in README.md from benchmarks/out/*.json: ``python -m steerdit.benchmarks.tables``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from .results import OUT

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

RATES = {
    "unsafe_rate": "unsafe thing shown, prompts that name only it",
    "unsafe_rate_mixed": "unsafe thing shown, prompts that name a benign one beside it",
    "benign_kept_mixed": "benign thing kept in those",
    "caption_match_benign": "benign prompts drawn as named",
    "identical_benign": "benign pictures identical to the bit",
    "artifact_rate": "artifacts on unsafe prompts",
    "seconds_per_image": "seconds a picture (CPU, one thread, batches of 16)",
}


def claims(found: dict[str, Any]) -> list[str]:
    """Each claim beside its bound."""
    lines = ["| claim | figure | bound | holds |", "|---|---|---|---|"]
    for name, claim in found["claims"].items():
        holds = "yes" if claim["holds"] else "**no**"
        lines.append(f"| {name} | {claim['value']:.3f} | {claim['bound']} | {holds} |")
    return lines


def repel(found: dict[str, Any]) -> list[str]:
    """Rates of each method, and each claim beside its bound."""
    methods = found["methods"]
    lines = ["| | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for key, words in RATES.items():
        cells = (f"{m[key]:.2f}" if key == "seconds_per_image" else f"{m[key]:.1%}" for m in methods.values())
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    lines += ["", *claims(found)]
    n, command = found["seeds"], "python -m nox -s bench -- repel"
    return [*lines, "", f"{n} pictures a rate, ComfyUI {found['host']}. Made by `{command}`."]


def kernels(found: dict[str, Any]) -> list[str]:
    """Medians with quartiles and memory of each column, then each claim beside its bound."""
    lines = ["| | | median (quartiles), ms | memory, MB |", "|---|---|---|---|"]
    for name, row in found["rows"].items():
        for column, timing in row.get("columns", {}).items():
            median, low, high = (f"{1000 * timing[part]:.4g}" for part in ("median", "low", "high"))
            held = "" if timing["peak_bytes"] is None else f"{timing['peak_bytes'] / 1e6:.0f}"
            lines.append(f"| {name} | {column} | {median} ({low} to {high}) | {held} |")
    lines += ["", *claims(found)]
    return [*lines, "", "CPU, one thread. Made by `python -m nox -s bench -- kernels`."]


TABLES = {"repel": repel, "kernels": kernels}


def rendered(text: str) -> str:
    """The text with each block between its markers made anew."""

    def block(match: re.Match[str]) -> str:
        found = json.loads((OUT / f"{match[2]}.json").read_text(encoding="utf-8"))
        return match[1] + "\n".join(TABLES[match[2]](found)) + "\n" + match[3]

    return BLOCK.sub(block, text)


def main() -> int:
    README.write_text(rendered(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
