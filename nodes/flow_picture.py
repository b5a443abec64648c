"""Shares of attention as a picture: one panel for each stream, blocks from left to right, steps from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

LEFT, TOP, GAP, BOTTOM = 64, 48, 28, 40
INK, PAPER = (40, 40, 48), (255, 255, 255)
LOW, HIGH = (247, 247, 252), (49, 20, 110)
"""Colours of share 0 and of the panel's highest."""


def flow_picture(
    shares: Tensor, blocks: Sequence[str], sigmas: Sequence[float], streams: Sequence[str]
) -> Tensor:
    """(1, H, W, 3): the shares (blocks, steps, streams) of each stream in the picture's attention, NaN left white."""
    columns, rows, panels = shares.shape
    across = max(6, min(28, 640 // max(1, columns)))
    down = max(8, min(24, 480 // max(1, rows)))
    wide, high = columns * across, rows * down
    size = (LEFT + panels * (wide + GAP), TOP + high + BOTTOM)
    picture = Image.new("RGB", (max(size[0], 320), size[1]), PAPER)
    draw = ImageDraw.Draw(picture)
    for panel, stream in enumerate(streams):
        x0 = LEFT + panel * (wide + GAP)
        values = shares[..., panel]
        finite = values[torch.isfinite(values)]
        top = float(finite.max()) if finite.numel() else 1.0
        draw.text((x0, 6), f"{stream} to picture", fill=INK)
        draw.text((x0, 22), f"white 0, dark {top:.2f}", fill=INK)
        for column in range(columns):
            for row in range(rows):
                value = float(values[column, row])
                if math.isfinite(value):
                    at = (x0 + column * across, TOP + row * down)
                    draw.rectangle(
                        (*at, at[0] + across - 1, at[1] + down - 1), fill=_colour(value / (top or 1.0))
                    )
        every = max(1, math.ceil(48 / across))
        for column in range(0, columns, every):
            draw.text((x0 + column * across, TOP + high + 4), blocks[column], fill=INK)
    for row in range(0, rows, max(1, math.ceil(14 / down))):
        draw.text((6, TOP + row * down), f"σ {sigmas[row]:.3f}", fill=INK)
    draw.text(
        (LEFT, TOP + high + 20), "attention of block, left to right; noise level, top to bottom", fill=INK
    )
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def flow_table(shares: Tensor, blocks: Sequence[str], sigmas: Sequence[float], streams: Sequence[str]) -> str:
    """The shares over all steps, block by block, and over all blocks, step by step."""
    lines = ["block: " + ", ".join(streams)]
    lines += [f"{name}: {_figures(row)}" for name, row in zip(blocks, shares.nanmean(1))]
    lines += ["", "sigma: " + ", ".join(streams)]
    lines += [f"{sigma:.4g}: {_figures(row)}" for sigma, row in zip(sigmas, shares.nanmean(0))]
    return "\n".join(lines)


def _figures(row: Tensor) -> str:
    return ", ".join(f"{float(value):.3f}" for value in row)


def _colour(part: float) -> tuple[int, int, int]:
    r, g, b = (round(low + (high - low) * min(1.0, max(0.0, part))) for low, high in zip(LOW, HIGH))
    return r, g, b
