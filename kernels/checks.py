"""What kernels refuse, before they compute (shapes, dtypes, devices) and after (numbers that are not finite)."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def refuse_unlike(**tensors: Tensor) -> None:
    """Refuses tensors of different devices or dtypes, or of a dtype that is not a plain float."""
    (name, first), *others = tensors.items()
    if first.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, not {first.dtype}")
    for other, tensor in others:
        if tensor.dtype != first.dtype:
            raise TypeError(f"{other} must have the dtype of {name}, {first.dtype}, not {tensor.dtype}")
    refuse_elsewhere(**tensors)


def refuse_elsewhere(**tensors: Tensor) -> None:
    """Refuses tensors of different devices."""
    (name, first), *others = tensors.items()
    for other, tensor in others:
        if tensor.device != first.device:
            raise ValueError(f"{other} must be on the device of {name}, {first.device}, not {tensor.device}")


def refuse_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Refuses a tensor of another shape; None allows any size."""
    if tensor.dim() != len(shape) or any(w not in (None, s) for w, s in zip(shape, tensor.shape)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have the shape ({wanted}), not {tuple(tensor.shape)}")


def refuse_scalar(x: Tensor) -> None:
    """Refuses what is not activations (..., d)."""
    if x.dim() == 0:
        raise ValueError("x must have the shape (..., d), not ()")


def refuse_encoder(x: Tensor, rows: Tensor, bias: Tensor) -> None:
    """Refuses what is not activations (..., d), rows (N, d) and a bias (N,) of one dtype on one device."""
    if (
        x.dtype in DTYPES
        and x.dtype == rows.dtype == bias.dtype
        and x.device == rows.device == bias.device
        and bias.shape == rows.shape[:-1]
        and rows.dim() == 2
        and x.shape[-1:] == rows.shape[1:]
    ):
        return  # in one look, because a call on a few tokens takes no longer than what follows
    refuse_unlike(x=x, rows=rows, bias=bias)
    refuse_scalar(x)
    refuse_shape("rows", rows, None, x.shape[-1])
    refuse_shape("bias", bias, rows.shape[0])


def refuse_threshold(threshold: Tensor, x: Tensor, latents: int) -> None:
    """Refuses what is not a threshold for all latents () or for each (S,), in any float dtype."""
    if threshold.device == x.device and threshold.dtype in DTYPES and threshold.shape in ((), (latents,)):
        return
    refuse_elsewhere(x=x, threshold=threshold)
    if threshold.dtype not in DTYPES:
        raise TypeError(f"threshold must be of a float dtype, not {threshold.dtype}")
    if threshold.dim() != 0:
        refuse_shape("threshold", threshold, latents)


def refuse_k(k: int, latents: int) -> None:
    """Refuses a k that is not from 1 to N."""
    if not 1 <= k <= latents:
        raise ValueError(f"k must be from 1 to {latents}, as many latents as there are, not {k}")


def refuse_indices(name: str, indices: Tensor, latents: int) -> None:
    """Refuses numbers of latents that are not whole, or not from 0 to N − 1. Waits for the device."""
    if indices.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int64 or int32, not {indices.dtype}")
    if indices.numel() == 0:
        return
    low, high = (int(bound) for bound in indices.aminmax())
    if low < 0 or high >= latents:
        raise ValueError(f"{name} must be from 0 to {latents - 1}, not {low} to {high}")


def refuse_not_finite(result: Tensor, **sources: Tensor) -> None:
    """Refuses a result with NaN or infinite numbers, by the name of the argument they come from.

    Costs one pass over the result, as a product with a vector: a sum is finite only if all its terms are, and scaled
    so that finite terms seldom overflow it. Waits for the device.
    """
    lies = result if result.is_contiguous() else result.mT
    width = lies.shape[-1]
    sums = lies @ result.new_full((width,), 2.0 ** -width.bit_length())
    if not sums.isfinite().all() and not result.isfinite().all():
        refuse_by_name(result.dtype, **sources)


def refuse_by_name(dtype: torch.dtype, **sources: Tensor) -> NoReturn:
    """Refuses a result of this dtype with NaN or infinite numbers, by the name of the argument they come from."""
    for name, source in sources.items():
        if not source.isfinite().all():
            raise ValueError(f"{name} must be finite, but holds NaN or infinite numbers")
    raise ValueError(f"{' and '.join(sources)} are finite, but their result overflows {dtype}")
