"""The table of compiled kernels and of their rooflines, for benchmarks/kernels.py: no GPU is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .results import Claim, at_most


def compile_table() -> list[dict[str, Any]]:
    """Every shipped kernel compiled for six architectures now, one row each: some 500 of half a second."""
    from ..kernels.triton import compile as compiler

    known = compiler.table()
    return [
        {
            **row._asdict(),
            "recorded_registers": known.get(row.name, {}).get(str(row.arch), [None])[0],
            "faults": row.faults(),
        }
        for row in compiler.compiled_all()
    ]


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each kernel on each architecture: how many variants, the most registers and shared memory, all faults."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"].split()[0], row["arch"]), []).append(row)
    return [
        {
            "kernel": kernel,
            "arch": arch,
            "variants": len(group),
            "registers": max(row["registers"] for row in group),
            "stack": max(row["stack"] for row in group),
            "shared": max(row["shared"] for row in group),
            "limit": group[0]["limit"],
            "tensor_core": all(row["tensor_core"] > 0 for row in group if row["multiplies"]),
            "faults": [fault for row in group for fault in row["faults"]],
        }
        for (kernel, arch), group in groups.items()
    ]


def rooflines() -> list[dict[str, Any]]:
    """Bytes, operations and least time of each kernel on H100 and RTX 4090, by its launch arguments."""
    from ..kernels.triton import bytes as model

    return [row._asdict() for row in model.rooflines()]


def claims_d(rows: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]]) -> dict[str, Claim]:
    """All variants are sound, none needs more registers than recorded, steering moves hardly more than it must."""
    grown = [
        row
        for row in rows
        if row["recorded_registers"] is None or row["registers"] > row["recorded_registers"]
    ]
    steering = [line["over_minimum"] for line in lines if line["kernel"].startswith("steer")]
    return {
        "d.faults": at_most(sum(len(row["faults"]) for row in rows), 0, len(rows)),
        "d.more_registers_than_recorded": at_most(len(grown), 0, len(rows)),
        "d.steer_bytes_over_minimum": at_most(max(steering), 1.01, len(steering)),
    }
