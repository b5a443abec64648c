"""Noise in the place of what attention said: out' = (1 − α) out + α ε, in the core, in the start-up stage.

After UVR (arXiv 2606.06875). ε is of the size of the picture's own attention output (ours: attention outputs of
different models and blocks differ by orders of magnitude). It depends on the seed, the picture, the site and the noise
level alone: a picture gets the same in another batch.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SteeringError
from ..sites import Site

CACHED = 128
"""Rows at a time on the CPU, so that they stay in its cache."""
DRAWS = ("cpu", "cuda", "mps", "xpu")
"""Devices that draw for themselves; a picture gets the same noise on the same device."""


@dataclass(frozen=True)
class Noise:
    """What is mixed into the core's attention output in the start-up stage: (1 − α) out + α ε.

    Raises:
        SteeringError: α is not within 0 and 1.
    """

    alpha: float = 0.999
    matched: bool = True
    """ε has the size of the picture's own output; else it has unit variance, as the paper says."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SteeringError(
                "noise",
                expected="a share from 0 to 1",
                found=f"{self.alpha}",
                remedy="Choose 0 for no noise, 0.999 for the paper's most.",
            )


def mixed(
    out: Tensor,
    rows: Tensor,
    alpha: float,
    seed: int,
    spread: Tensor | float,
    heads: Sequence[int] | None = None,
    count: int = 1,
) -> Tensor:
    """The outputs (n, h·d) of some rows of one picture, mixed with noise.

    Args:
        out: (L, h·d) of the picture.
        rows: (n)
        seed: see `noise_seed`.
        spread: standard deviation of ε.
        heads: which are mixed, of `count` heads; None is all of them.
    """
    x = out[rows].float()
    device = out.device if out.device.type in DRAWS else torch.device("cpu")
    draw = torch.Generator(device).manual_seed(seed)
    noise = spread * torch.randn(x.shape, generator=draw, device=device).to(out.device)
    new = (1 - alpha) * x + alpha * noise
    if heads is not None:
        by_head = x.view(len(x), count, -1).clone()
        by_head[:, list(heads)] = new.view(len(x), count, -1)[:, list(heads)]
        new = by_head.view(x.shape)
    return new.to(out.dtype)


def noise_seed(seed: int | None, image: int, site: Site, sigma: float) -> int:
    """A seed for one picture, site and noise level of a run."""
    said = f"{seed or 0}:{image}:{site}:".encode() + struct.pack("<f", sigma)
    return int.from_bytes(hashlib.sha256(said).digest()[:8], "little") >> 1


def root_mean_square(out: Tensor) -> Tensor:
    """Of a picture's outputs (L, h·d): () float32, on their device."""
    parts = (
        out.split(CACHED) if out.device.type == "cpu" else (out,)
    )  # a whole copy in float32 costs more than its sum
    norms = torch.stack([torch.linalg.vector_norm(part.float()) for part in parts])
    return torch.linalg.vector_norm(norms) / math.sqrt(out.numel())
