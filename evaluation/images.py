"""Between Pillow's pictures and the host's IMAGE, a tensor (B, H, W, 3) of numbers from 0 to 1."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_image(picture: Image.Image) -> Tensor:
    """One picture as an IMAGE (1, H, W, 3)."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values)[None]


def as_pictures(image: Tensor) -> list[Image.Image]:
    """An IMAGE (B, H, W, 3 or 4) as pictures, rounded to whole bytes."""
    values = (image[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(one) for one in values]
