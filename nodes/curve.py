"""The curve of a training as a picture: FVU over steps, with the last figures below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

if TYPE_CHECKING:
    from ..training.dictionaries.journal import Line

SIZE = (640, 400)
LEFT, TOP, RIGHT, BOTTOM = 56, 28, 16, 76
INK, GRID, BATCH, HELD = (40, 40, 48), (224, 224, 228), (150, 160, 176), (24, 96, 208)


def curve(lines: Sequence[Line], steps: int, title: str) -> Tensor:
    """(1, H, W, 3): the batches' FVU in grey, that of held-out tokens in blue, on a logarithmic axis."""
    picture = Image.new("RGB", SIZE, (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM
    values = [line.fvu for line in lines if math.isfinite(line.fvu) and line.fvu > 0]
    low, high = (min(values), max(values)) if values else (0.1, 1.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)

    def place(step: float, value: float) -> tuple[float, float]:
        up = (math.log10(value) - first) / (last - first)
        return LEFT + width * min(1.0, step / max(1, steps)), TOP + height * (1 - up)

    draw.text((LEFT, 8), title, fill=INK)
    for power in range(first, last + 1):
        for part in (1, 2, 5):
            if part > 1 and (power == last or last - first > 3):
                continue
            _, y = place(0, part * 10.0**power)
            draw.line((LEFT, y, LEFT + width, y), fill=GRID)
            draw.text((8, y - 6), f"{part * 10.0**power:g}", fill=INK)
    for part in range(5):
        x, _ = place(steps * part / 4, 10.0**last)
        draw.text((x - 12, TOP + height + 6), f"{steps * part // 4}", fill=INK)
    for held, colour, thickness in ((False, BATCH, 1), (True, HELD, 3)):
        points = [place(line.step, line.fvu) for line in lines if line.held is held and line.fvu > 0]
        if len(points) > 1:
            draw.line(points, fill=colour, width=thickness)
        elif points:
            x, y = points[0]
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    draw.text((LEFT, SIZE[1] - 44), said(lines, steps), fill=INK)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def said(lines: Sequence[Line], steps: int) -> str:
    """The last figures of the batches and of the held-out tokens, in two lines."""
    batch = next((line for line in reversed(lines) if not line.held), None)
    held = next((line for line in reversed(lines) if line.held), None)
    if batch is None:
        return "The training is about to begin."
    now = (
        f"step {batch.step} of {steps}: FVU {batch.fvu:.4f}, L0 {batch.l0:.1f}, dead {batch.dead:.1%}, "
        f"{batch.tokens_per_second:,.0f} tokens/s"
    )
    return now if held is None else f"{now}\nheld out (blue): FVU {held.fvu:.4f}, L0 {held.l0:.1f}"
