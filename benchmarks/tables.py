"""Writes the tables of figures in the documents from benchmarks/out/*.json: ``python -m steerdit.benchmarks.tables``.

The README has what a user asks first; docs/figures.md has every claim and every column.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from .kernels import tables as kernels
from .results import OUT
from .safedig import tables as safedig
from .transfer import tables as transfer
from .uvr import tables as uvr

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs/figures.md")
BLOCK = re.compile(r"(<!-- table: (\w+)\.(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

RATES = {
    "unsafe_rate": "something unsafe shown, prompts that name only it",
    "unsafe_rate_mixed": "something unsafe shown, prompts that name a benign thing beside it",
    "benign_kept_mixed": "benign thing kept in those",
    "caption_match_benign": "benign prompts drawn as named",
    "identical_benign": "benign pictures identical to the bit",
    "artifact_rate": "artifacts on unsafe prompts",
}


def claims(found: dict[str, Any]) -> list[str]:
    """Each claim beside its bound."""
    lines = ["| claim | figure | bound | holds |", "|---|---|---|---|"]
    for name, claim in found["claims"].items():
        holds = "yes" if claim["holds"] else "**no**"
        lines.append(f"| {name} | {claim['value']:.4g} | {claim['bound']} | {holds} |")
    return lines


def rates(found: dict[str, Any]) -> list[str]:
    """What each method does to unsafe, mixed and benign prompts."""
    methods = found["methods"]
    lines = ["| | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for key, words in RATES.items():
        cells = (f"{m[key]:.1%}" for m in methods.values())
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return [*lines, "", f"{found['seeds']} pictures a rate, ComfyUI {found['host']}."]


def categories(found: dict[str, Any]) -> list[str]:
    """The unsafe rates of each method by risk, and on names of the risks that no training caption had."""
    details = found["details"]
    kinds = {"unsafe_rate by category": "alone", "unsafe_rate_mixed by category": "beside a benign thing"}
    rows = [
        (f"{risk}, {words}", [method[kind][risk] for method in details.values()])
        for kind, words in kinds.items()
        for risk in next(iter(details.values()))[kind]
    ]
    rows.append(("held-out synonyms", [m["unsafe_rate of held-out synonyms"] for m in details.values()]))
    lines = ["| something unsafe shown | " + " | ".join(details) + " |", "|---" * (len(details) + 1) + "|"]
    for name, cells in rows:
        said = (f"{c['value']:.1%} ({c['low']:.1%} to {c['high']:.1%})" for c in cells)
        lines.append(f"| {name} | " + " | ".join(said) + " |")
    return lines


def columns(found: dict[str, Any]) -> list[str]:
    """Median with quartiles, and memory, of each column that was timed."""
    lines = ["| | | median (quartiles), ms | memory, MB |", "|---|---|---|---|"]
    for name, row in found["rows"].items():
        for column, timing in row.get("columns", {}).items() if isinstance(row, dict) else ():
            median, low, high = (f"{1000 * timing[part]:.4g}" for part in ("median", "low", "high"))
            held = "" if timing["peak_bytes"] is None else f"{timing['peak_bytes'] / 1e6:.0f}"
            lines.append(f"| {name} | {column} | {median} ({low} to {high}) | {held} |")
    return lines


TABLES = {
    "claims": claims,
    "rates": rates,
    "categories": categories,
    "columns": columns,
    "ratios": kernels.ratios,
    "compiled": kernels.compiled,
    "rooflines": kernels.rooflines,
    "summary": safedig.summary,
    "transfer": safedig.transfer,
    "arms": safedig.arms,
    "attacks": safedig.attacks,
    "routing": safedig.routing,
    "differences": safedig.differences,
    "short": transfer.short,
    "used": transfer.used,
    "selective": transfer.selective,
    "anchors": transfer.anchors,
    "names": transfer.names,
    "overview": uvr.overview,
    "restricted": uvr.restricted,
    "ablations": uvr.ablations,
    "stacked": uvr.stacked,
    "tried": uvr.tried,
    "overlap": uvr.overlap,
    "cost": uvr.cost,
}


def rendered(text: str) -> str:
    """The text with each block ``<!-- table: BENCHMARK.TABLE -->`` … ``<!-- end -->`` made anew."""

    def block(match: re.Match[str]) -> str:
        found = json.loads((OUT / f"{match[2]}.json").read_text(encoding="utf-8"))
        made = [*TABLES[match[3]](found), "", f"Made by `python -m nox -s bench -- {match[2]}`."]
        return match[1] + "\n".join(made) + "\n" + match[4]

    return BLOCK.sub(block, text)


def main() -> int:
    for document in DOCUMENTS:
        document.write_text(rendered(document.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
