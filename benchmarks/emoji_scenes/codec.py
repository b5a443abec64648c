"""A linear codec: 128 × 128 pictures ↔ 16 latent channels at an eighth of the size, the geometry of FLUX's autoencoder.

Pictures are halved, cut into 4 × 4 patches and projected on their 16 principal components. Each component is divided by
the square root of its deviation: full whitening would make the generator spend itself on detail that nobody sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

CHANNELS, PATCH = 16, 4


@dataclass(frozen=True)
class LinearCodec:
    mean: Tensor  # (48,)
    components: Tensor  # (48, 16), orthonormal columns
    scale: Tensor  # (16,), what a component is divided by

    @classmethod
    def fit(cls, pictures: Tensor) -> LinearCodec:
        """Fit to pictures (B, 3, 128, 128) in [0, 1]."""
        x = _patches(pictures).flatten(0, 2).double()  # (n, 48)
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        components = vectors.flip(1)[:, :CHANNELS]
        deviation = values.flip(0)[:CHANNELS].clamp_min(1e-8).sqrt()
        # One common factor brings the mean variance of the latents to 1, where rectified flow's unit noise expects it.
        scale = deviation.sqrt()
        common = ((deviation / scale) ** 2).mean().sqrt()
        return cls(mean.float(), components.float(), (scale * common).float())

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, 128, 128) in [0, 1] → latents (B, 16, 16, 16)."""
        z = (_patches(pictures) - self.mean) @ self.components / self.scale
        return rearrange(z, "b h w c -> b c h w")

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 16, h, w) → pictures (B, 3, 8h, 8w) in [0, 1]."""
        x = (rearrange(latents, "b c h w -> b h w c") * self.scale) @ self.components.T + self.mean
        half = rearrange(x, "b h w (c p q) -> b c (h p) (w q)", c=3, p=PATCH, q=PATCH)
        return F.interpolate(half.clamp(0, 1), scale_factor=2, mode="bilinear").clamp(0, 1)

    def save(self, path: Path) -> None:
        save_file({"mean": self.mean, "components": self.components.contiguous(), "scale": self.scale}, path)

    @classmethod
    def load(cls, path: Path) -> LinearCodec:
        return cls(**load_file(path))


def _patches(pictures: Tensor) -> Tensor:
    half = F.avg_pool2d(pictures, 2)
    return rearrange(half, "b c (h p) (w q) -> b h w (c p q)", p=PATCH, q=PATCH)
