"""What every launch asks of its device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import bits, configs

INTERPRETED = bool(bits.INTERPRETED.value)
"""Whether kernels run in triton's interpreter, on the CPU (TRITON_INTERPRET=1 before the import)."""


def architecture(device: torch.device) -> int | None:
    """The nearest architecture that kernels were compiled for, as 90 for compute capability 9.0; None below 8.0.

    The limits of shared memory differ: a chip between two takes the lower one's configuration.
    """
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    known = [arch for arch in configs.ARCHITECTURES if arch <= 10 * major + minor]
    return max(known) if known else None


def on(tensor: Tensor) -> AbstractContextManager[object]:
    """Launches inside go to the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it, contiguous and at an address that 16-byte loads can take."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def l2_bytes(device: torch.device) -> int:
    """The size of the L2 cache."""
    if device.type != "cuda":
        return configs.ARCHITECTURES[80].l2
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 6 << 20))


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why no kernel here takes tensors of this kind, or None where they do."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{str(dtype).removeprefix('torch.')} is not among float32, bfloat16 and float16"
    if not hasattr(tl, "gather"):
        return f"triton {triton.__version__} is older than the kernels need (3.2)"
    if INTERPRETED:
        return None if device.type == "cpu" else "triton's interpreter computes on the CPU"
    if device.type != "cuda":
        return f"the tensors are on {device.type}, and TRITON_INTERPRET is not set"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if torch.version.hip is not None:
        return "the kernels were compiled and checked for NVIDIA only"
    if architecture(device) is None:
        return "the GPU is older than compute capability 8.0"
    return None
