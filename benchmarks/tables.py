"""Writes the tables of figures in the documents from benchmarks/out/*.json: ``python -m steerdit.benchmarks.tables``.

The README has what a user asks first; docs/figures.md has every claim and every column.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from .results import OUT
from .safedig import tables as transfer
from .transfer import tables as directions
from .uvr import tables as flow

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


def ratios(found: dict[str, Any]) -> list[str]:
    """TopK encode and decode of a whole dictionary, as multiples of the bare matrix product."""
    timed = {name: row["columns"] for name, row in found["rows"].items() if name.startswith("a.")}
    peers = [column for column in next(iter(timed.values())) if column != "product"]
    lines = ["| width, dtype | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for name, by_column in timed.items():
        _, width, dtype = name.split(".")
        cells = (f"{by_column[peer]['median'] / by_column['product']['median']:.2f}" for peer in peers)
        lines.append(f"| {width}, {dtype} | " + " | ".join(cells) + " |")
    return lines


def compiled(found: dict[str, Any]) -> list[str]:
    """Of each GPU kernel and architecture the most registers of a thread and bytes of shared memory of a program."""
    groups = found["rows"].get("d", {}).get("compiled", [])
    kernels, architectures = (
        [*dict.fromkeys(group[part] for group in groups)] for part in ("kernel", "arch")
    )
    lines = ["| kernel | " + " | ".join(f"sm_{arch}" for arch in architectures) + " |"]
    lines.append("|---" * (len(architectures) + 1) + "|")
    by_place = {(group["kernel"], group["arch"]): group for group in groups}
    for kernel in kernels:
        row = [by_place[kernel, arch] for arch in architectures]
        cells = " | ".join(f"{cell['registers']}, {cell['shared']}" for cell in row)
        lines.append(f"| {kernel} ({row[0]['variants']}) | {cells} |")
    return lines


def rooflines(found: dict[str, Any]) -> list[str]:
    """Of each GPU kernel the bytes over the least there could be, and the least time on two cards."""
    lines = [
        "| kernel | shape | bytes over the minimum | H100, µs | RTX 4090, µs |",
        "|---|---|---|---|---|",
    ]
    times: dict[tuple[str, str], dict[str, Any]] = {}
    for line in found["rows"].get("d", {}).get("rooflines", []):
        times.setdefault((line["kernel"], line["shape"]), {})[line["gpu"]] = line
    for (kernel, shape), by_gpu in times.items():
        over = max(line["over_minimum"] for line in by_gpu.values())
        cells = " | ".join(f"{by_gpu[gpu]['microseconds']:.4g}" for gpu in ("H100 SXM", "RTX 4090"))
        lines.append(f"| {kernel} | {shape} | {over:.3f} | {cells} |")
    return lines


TABLES = {
    "claims": claims,
    "rates": rates,
    "categories": categories,
    "columns": columns,
    "ratios": ratios,
    "compiled": compiled,
    "rooflines": rooflines,
    "transfer": transfer.transfer,
    "attacks": transfer.attacks,
    "routing": transfer.routing,
    "differences": transfer.differences,
    "short": directions.short,
    "used": directions.used,
    "selective": directions.selective,
    "anchors": directions.anchors,
    "names": directions.names,
    "restricted": flow.restricted,
    "ablations": flow.ablations,
    "stacked": flow.stacked,
    "tried": flow.tried,
    "overlap": flow.overlap,
    "cost": flow.cost,
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
