"""The edits of activations on the GPU: see `reference.py` for what each of them is.

Shapes: x (..., d). Arguments were checked by the caller (`operations.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import configs
from .direction import add_direction_kernel
from .launch import aligned, architecture, l2_bytes, on
from .steer import steer_kernel


def steer_selected(x: Tensor, z: Tensor, rows: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """x' = x + strength · Σ_f z_f d_f, with x read from device memory once and x' written once."""
    codes = aligned(z.reshape(z.shape[:-1].numel(), z.shape[-1]))
    return _steered(x, rows, strength, keep_norm, codes=codes, encoder=None, bias=None, threshold=None)


def encode_and_steer(
    x: Tensor,
    encoder: Tensor,
    bias: Tensor,
    threshold: Tensor,
    directions: Tensor,
    strength: float,
    keep_norm: bool = False,
) -> Tensor:
    """`steer_selected` by the codes of `encode_selected`, which never leave the registers."""
    return _steered(
        x,
        directions,
        strength,
        keep_norm,
        codes=None,
        encoder=aligned(encoder),
        bias=aligned(bias.float()),
        threshold=bar(threshold, x.dtype, encoder.shape[0]),
    )


def project_out(x: Tensor, basis: Tensor, strength: float = 1.0, keep_norm: bool = False) -> Tensor:
    """x' = x − strength · Σ_s ⟨x, b_s⟩ b_s: steering along rows that encode as well, with every gate open."""
    latents = basis.shape[0]
    zero = torch.zeros(latents, device=x.device)
    bias, threshold = zero, torch.full_like(zero, -torch.inf)
    return encode_and_steer(x, basis, bias, threshold, basis, -strength, keep_norm)


def add_direction(x: Tensor, direction: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """x' = x + strength · v, with v (d,)."""
    width = x.shape[-1]
    config = configs.add_direction(width)
    assert config is not None, "refused before"
    tokens = aligned(x.reshape(-1, width))
    out = torch.empty_like(tokens)
    if out.numel() > 0:
        kernel: Any = add_direction_kernel
        with on(x):
            kernel[(len(tokens),)](
                tokens,
                aligned(direction.float()),
                out,
                width,
                float(strength),
                int(keep_norm),
                **config.constants,
                num_warps=config.num_warps,
            )
    return out.view(x.shape)


def bar(threshold: Tensor, dtype: torch.dtype, latents: int) -> Tensor:
    """θ (latents,) in float32 such that p > θ holds for the same numbers p of `dtype` as with what is given."""
    if threshold.dim() == 0:  # then torch compares in the dtype of p
        return threshold.to(dtype).float().repeat(latents)
    near = threshold.float()
    # No p lies between a double and the float32 below it; one may lie on the float32 above it.
    above = near.double() > threshold.double()
    return torch.where(above, torch.nextafter(near, torch.full_like(near, -torch.inf)), near)


def _steered(
    x: Tensor, directions: Tensor, strength: float, keep_norm: bool, **codes: Tensor | None
) -> Tensor:
    """Launches `steer_kernel`; `codes` are given, or an encoder with its bias and threshold."""
    (latents, width), arch = directions.shape, architecture(x.device)
    if x.numel() == 0 or latents == 0:
        return x.clone()
    if short := -width % configs.WHOLE:
        x, directions = functional.pad(x, (0, short)), functional.pad(directions, (0, short))
        if (encoder := codes["encoder"]) is not None:
            codes["encoder"] = functional.pad(encoder, (0, short))
        return _steered(x, directions, strength, keep_norm, **codes)[..., :width].contiguous()
    tokens = aligned(x.reshape(-1, width))
    config = arch and configs.steer(arch, x.element_size(), latents)
    assert config, "refused before"
    out = torch.empty_like(tokens)
    kernel: Any = steer_kernel
    rows, each = aligned(directions), int(config.constants["TOKENS"])
    at_once = configs.steered_at_once(config, width, x.element_size(), l2_bytes(x.device)) or len(tokens)
    given = codes["codes"]
    with on(x):
        for first in range(0, len(tokens), at_once):
            part = slice(first, first + at_once)
            count = len(tokens[part])
            kernel[(-(-count // each),)](
                tokens[part],
                out[part],
                None if given is None else aligned(given[part]),
                codes["encoder"],
                codes["bias"],
                codes["threshold"],
                rows,
                count,
                width,
                latents,
                float(strength),
                int(keep_norm),
                **config.constants,
                num_warps=config.num_warps,
                num_stages=config.num_stages,
            )
    return out.view(x.shape)
