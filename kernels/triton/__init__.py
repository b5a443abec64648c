"""The kernels on NVIDIA GPUs, compute capability 8.0 and later: the functions of `reference.py` by name.

Nothing imports this package, nor triton, before a CUDA tensor arrives. With TRITON_INTERPRET=1 in the environment
before that, the same kernels run in triton's interpreter on the CPU, for tests.
"""

from __future__ import annotations

import torch

from ..reference import decode_selected, encode_selected
from . import configs
from .dictionaries import decode, encode_threshold, encode_topk, topk_membership
from .edits import add_direction, encode_and_steer, project_out, steer_selected
from .launch import architecture, why_not
from .trial import why_not_here

__all__ = [
    "add_direction",
    "decode",
    "decode_selected",
    "encode_and_steer",
    "encode_selected",
    "encode_threshold",
    "encode_topk",
    "project_out",
    "refusal",
    "steer_selected",
    "topk_membership",
]


def refusal(
    operation: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    latents: int = 1,
    width: int = 1,
    tokens: int = 1,
    k: int = 1,
) -> str | None:
    """Why these kernels do not take a call, or None where they do.

    `encode_selected` and `decode_selected` are one matrix product each, which the library does best.
    """
    reason = why_not(device, dtype) or why_not_here(device)
    if reason is not None:
        return reason
    arch = architecture(device)
    assert arch is not None, "why_not has refused older ones"
    if operation == "encode_topk" and configs.row_topk(arch, dtype.itemsize, latents, k) is None:
        return f"k = {k} of {latents} latents is beyond {max(configs.TOPK_K)} of {max(configs.TOPK_LATENTS)}"
    if operation == "topk_membership" and latents > configs.MEMBERSHIP_LATENTS:
        return f"{latents} latents are more than {configs.MEMBERSHIP_LATENTS}"
    steers = operation in ("steer_selected", "encode_and_steer", "project_out")
    if steers and configs.steer(arch, dtype.itemsize, latents) is None:
        most = max(configs.STEER_LATENTS[dtype.itemsize])
        return (
            f"{latents} latents are more than the {most} that one kernel holds; matrix products are as good"
        )
    if operation == "add_direction" and configs.add_direction(width) is None:
        return f"a token of {width} numbers does not fit one program's registers"
    return None
