"""The table of compiled kernels and of their rooflines: no GPU is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..results import Claim, at_most

if TYPE_CHECKING:
    from ...kernels.triton.compile import Compiled


def claims_d(rows: dict[str, Any], architectures: Sequence[int] | None = None) -> dict[str, Claim]:
    """All variants are sound, none needs more registers than recorded, steering moves hardly more than it must.

    Args:
        architectures: None means all six, some 500 variants of half a second.
    """
    from ...kernels.triton import compile as compiler
    from ...kernels.triton import configs
    from ...kernels.triton.bytes import rooflines, steering_over_minimum

    made = list(compiler.compiled_all(architectures or tuple(configs.ARCHITECTURES)))
    lines, steering = rooflines(), steering_over_minimum()
    faults = [fault for row in made for fault in row.faults()]
    grown = compiler.growth(made)
    rows["d"] = {
        "triton": compiler.TRITON,
        "recorded_by": compiler.recorded_by(),
        "compiled": summary(made),
        "faults": [*faults, *grown],
        "rooflines": [line._asdict() for line in lines],
        "steering_over_minimum": steering,
    }
    return {
        "d.faults": at_most(len(faults), 0, len(made)),
        "d.more_registers_than_recorded": at_most(len(grown), 0, len(made)),
        "d.steer_bytes_over_minimum": at_most(max(steering.values()), 1.01, len(steering)),
    }


def summary(made: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Of each kernel on each architecture: how many variants, the most registers, stack and shared memory."""
    groups: dict[tuple[str, int], list[Compiled]] = {}
    for row in made:
        groups.setdefault((row.name.split()[0], row.arch), []).append(row)
    return [
        {
            "kernel": kernel,
            "arch": arch,
            "variants": len(group),
            "registers": max(row.registers for row in group),
            "stack": max(row.stack for row in group),
            "shared": max(row.shared for row in group),
            "limit": group[0].limit,
        }
        for (kernel, arch), group in groups.items()
    ]
