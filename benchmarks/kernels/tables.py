"""Tables of the kernels' figures, for benchmarks/tables.py."""

from __future__ import annotations

from typing import Any


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
