"""Which path computes a kernel: one table by device, readable with `explain`, forced by STEERDIT_KERNELS.

    cpu         plain torch, arranged for processors (cpu.py)
    triton      the package `triton`, imported when the first CUDA tensor arrives
    reference   the definition (reference.py), for every other device and wherever triton is not at hand

A path is a module with the functions of reference.py by name. The triton package has, beside them,
`refusal(operation, device, dtype, **sizes) -> str | None`: why it cannot take a call, or None where it can.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import torch

from . import cpu, reference

VARIABLE = "STEERDIT_KERNELS"
PATHS = ("reference", "cpu", "triton")


class Choice(NamedTuple):
    """Which path runs, and why."""

    path: str
    why: str


def choose(operation: str, device: torch.device, dtype: torch.dtype, **sizes: int) -> Choice:
    """The path of a call.

    Args:
        operation: a function of this package by name.
        sizes: what its speed depends on: `latents` (N or S), `width` (d), `tokens`, `k`.

    Raises:
        RuntimeError: STEERDIT_KERNELS forces a path that cannot take the call, or names none.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced:
        return _forced(forced, operation, device, dtype, sizes)
    if device.type == "cpu":
        return Choice("cpu", "the tensors are on the CPU")
    if device.type == "cuda":
        reason = _triton_refusal(operation, device, dtype, sizes)
        if reason is None:
            return Choice("triton", "the tensors are on a CUDA device that triton takes")
        return Choice("reference", f"triton cannot take it: {reason}")
    return Choice("reference", f"no other path is written for {device.type}")


def module_for(operation: str, x: torch.Tensor, latents: int, **sizes: int) -> Any:
    """The module that computes a call on tensors like x (..., d), as `choose` says."""
    if x.device.type == "cpu" and not os.environ.get(VARIABLE):
        return cpu  # at once, because a call on a few tokens takes no longer than choosing
    width = x.shape[-1]
    tokens = x.numel() // max(1, width)
    choice = choose(operation, x.device, x.dtype, latents=latents, width=width, tokens=tokens, **sizes)
    if choice.path == "triton":
        return importlib.import_module(".triton", __package__)
    return cpu if choice.path == "cpu" else reference


def explain(operation: str, device: torch.device | str, dtype: torch.dtype, **sizes: int) -> str:
    """One line that says which path a call would take, and why.

    >>> explain("encode_topk", "cpu", torch.float32, latents=24576, k=32)
    'encode_topk on cpu in float32 (latents=24576, k=32): cpu, because the tensors are on the CPU'
    """
    if not callable(getattr(reference, operation, None)):
        raise ValueError(f"there is no kernel {operation!r}")
    path, why = choose(operation, torch.device(device), dtype, **sizes)
    shape = ", ".join(f"{name}={size}" for name, size in sizes.items())
    what = f"{operation} on {torch.device(device)} in {str(dtype).removeprefix('torch.')}"
    return f"{what}{f' ({shape})' if shape else ''}: {path}, because {why}"


def _forced(
    path: str, operation: str, device: torch.device, dtype: torch.dtype, sizes: dict[str, int]
) -> Choice:
    if path not in PATHS:
        raise RuntimeError(f"{VARIABLE} must be one of {', '.join(PATHS)} or empty, not {path!r}")
    reason = None
    if path == "cpu" and device.type != "cpu":
        reason = f"the tensors are on {device}"
    if path == "triton":
        reason = _triton_refusal(operation, device, dtype, sizes)
    if reason is not None:
        raise RuntimeError(f"{VARIABLE}={path} cannot run {operation}: {reason}")
    return Choice(path, f"{VARIABLE} says so")


def _triton_refusal(
    operation: str, device: torch.device, dtype: torch.dtype, sizes: dict[str, int]
) -> str | None:
    """Why triton cannot take a call, or None where it can."""
    try:
        package: Any = importlib.import_module(".triton", __package__)
    except ImportError as reason:
        return f"it cannot be imported ({reason})"
    if not hasattr(package, operation):
        return "it has no such kernel"
    return package.refusal(operation, device, dtype, **sizes)
