"""Figures of every block and step as a picture: a panel for each, blocks from left to right, steps downwards."""

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
    """(1, H, W, 3): the shares (blocks, steps, streams) of each stream in the picture's attention."""
    tops = [
        float(one[torch.isfinite(one)].max()) if bool(torch.isfinite(one).any()) else 1.0
        for one in shares.unbind(-1)
    ]
    return panels(
        shares, blocks, sigmas, [f"{stream} to picture" for stream in streams], [(0.0, top) for top in tops]
    )


def panels(
    values: Tensor,
    blocks: Sequence[str],
    sigmas: Sequence[float],
    titles: Sequence[str],
    ranges: Sequence[tuple[float, float]],
) -> Tensor:
    """(1, H, W, 3): values (blocks, steps, panels), each panel from light at its least to dark; NaN left white."""
    columns, rows, count = values.shape
    across = max(6, min(28, 640 // max(1, columns)))
    down = max(8, min(24, 480 // max(1, rows)))
    wide, high = max(columns * across, 130), rows * down
    picture = Image.new("RGB", (LEFT + count * (wide + GAP), TOP + high + BOTTOM), PAPER)
    draw = ImageDraw.Draw(picture)
    for panel, (title, (least, most)) in enumerate(zip(titles, ranges)):
        x0 = LEFT + panel * (wide + GAP)
        draw.text((x0, 6), title, fill=INK)
        draw.text((x0, 22), f"light {least:.2f}, dark {most:.2f}", fill=INK)
        for column in range(columns):
            for row in range(rows):
                value = float(values[column, row, panel])
                if math.isfinite(value):
                    x, y = x0 + column * across, TOP + row * down
                    part = (value - least) / ((most - least) or 1.0)
                    draw.rectangle((x, y, x + across - 1, y + down - 1), fill=_colour(part))
        for column in range(0, columns, max(1, math.ceil(56 / across))):
            draw.text((x0 + column * across, TOP + high + 4), blocks[column], fill=INK)
    for row in range(0, rows, max(1, math.ceil(14 / down))):
        draw.text((4, TOP + row * down), f"{sigmas[row]:.3f}", fill=INK)
    draw.text((4, TOP + high + 20), "sigma; blocks from left to right", fill=INK)
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
