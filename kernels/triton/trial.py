"""Whether a machine can run kernels at all: triton needs a C compiler there, a driver it knows and a GPU that obeys."""

from __future__ import annotations

from functools import cache

import torch

from .edits import add_direction


@cache
def why_not_here(device: torch.device) -> str | None:
    """Runs the smallest kernel once in a process and says what went wrong, or None where its result is right."""
    try:
        x = torch.ones(2, 16, device=device)
        found = add_direction(x, 2 * x[0], 0.5)
    except Exception as reason:  # whatever stops it, plain torch computes the same
        lines = str(reason).strip().splitlines() or [""]
        return f"a kernel failed on trial: {type(reason).__name__}: {lines[0]}"
    return None if torch.equal(found, 2 * x) else "a kernel computed wrong numbers on trial"
