"""Bar charts of sums: one line a bar, what adds to it to the right of zero, what takes away to the left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .comparison import GAP, INK, MARGIN, PAPER, RULE, SOFT, font, shorten

COLOURS = ((44, 110, 178), (86, 160, 90), (226, 156, 52), (190, 74, 70), (128, 98, 168), (110, 116, 126))
NAMES, VALUES, WIDTH, LINE = 210, 60, 430, 24


@dataclass(frozen=True)
class Bar:
    """One line of a chart."""

    name: str
    parts: Mapping[str, float]
    """What its value is the sum of."""

    @property
    def value(self) -> float:
        return sum(self.parts.values())


def draw_bars(title: str, bars: Sequence[Bar], subtitle: str = "") -> Image.Image:
    """The chart as an RGB picture, the bars in their order, a legend of the parts below. There is at least one bar."""
    names = list(dict.fromkeys(name for bar in bars for name in bar.parts))
    colour = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}
    ups = max(sum(max(v, 0.0) for v in bar.parts.values()) for bar in bars)
    downs = max(sum(max(-v, 0.0) for v in bar.parts.values()) for bar in bars)
    scale = WIDTH / ((ups + downs) or 1.0)
    zero = MARGIN + NAMES + GAP + downs * scale
    head = MARGIN + 30 + (20 if subtitle else 0)
    width = MARGIN + NAMES + GAP + WIDTH + GAP + VALUES + MARGIN
    chart = Image.new("RGB", (width, head + LINE * len(bars) + GAP + 24 + MARGIN), PAPER)
    pen = ImageDraw.Draw(chart)
    pen.text((MARGIN, MARGIN - 4), title, INK, font(20), stroke_width=0.4)
    if subtitle:
        pen.text((MARGIN, MARGIN + 24), shorten(subtitle, font(14), width - 2 * MARGIN), SOFT, font(14))
    for row, bar in enumerate(bars):
        y = head + LINE * row
        said = shorten(bar.name, font(15), NAMES)
        pen.text((MARGIN + NAMES - font(15).getlength(said), y + 3), said, INK, font(15))
        right = left = zero
        for name, value in bar.parts.items():
            if value >= 0:
                box, right = (right, y + 3, right + value * scale, y + LINE - 4), right + value * scale
            else:
                box, left = (left + value * scale, y + 3, left, y + LINE - 4), left + value * scale
            if box[2] - box[0] >= 1:
                pen.rectangle(box, fill=colour[name])
        pen.text((width - MARGIN - VALUES, y + 3), f"{bar.value:+.3f}", INK, font(15))
    bottom = head + LINE * len(bars)
    pen.line((zero, head, zero, bottom), RULE, 1)
    x = float(MARGIN + NAMES + GAP)
    for name in names:
        pen.rectangle((x, bottom + GAP + 5, x + 12, bottom + GAP + 17), fill=colour[name])
        pen.text((x + 17, bottom + GAP + 2), name, SOFT, font(14))
        x += 17 + font(14).getlength(name) + 18
    return chart
