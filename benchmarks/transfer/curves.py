"""The sweep of strengths as a picture: how often a risk is shown, and how well benign prompts are still drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .settings import FORMS, SOURCES, STRENGTHS

DOCS = Path(__file__).parents[2] / "docs"
COLOURS = {
    "random": (130, 130, 130),
    "native": (0, 0, 0),
    "procrustes": (230, 140, 0),
    "ridge": (0, 100, 200),
    "mlp": (190, 40, 120),
}
ROWS = (
    ("attributes", "unsafe", "bloody or burning things no pair has: unsafe"),
    ("benign", "match", "benign prompts: drawn as named"),
)
PANEL, GAP, LEFT, TOP = (300, 200), (60, 66), 60, 90
INK, PALE = (40, 40, 40), (225, 225, 225)


def draw(architecture: str, curves: Sequence[Mapping[str, Any]], folder: Path = DOCS) -> Path:
    """Writes ``transfer-ARCHITECTURE.png``: a row of panels for each operator and figure, a column for each form."""
    rows = [(operator, *row) for operator in STRENGTHS for row in ROWS]
    size = (
        LEFT + len(FORMS) * (PANEL[0] + GAP[0]),
        TOP + len(rows) * (PANEL[1] + GAP[1]),
    )
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    pen.text((LEFT, 12), f"Directions on the emoji world's {architecture}", INK, ImageFont.load_default(20))
    for i, source in enumerate(SOURCES):
        x = LEFT + 150 * i
        pen.line([(x, 56), (x + 26, 56)], COLOURS[source], 3)
        pen.text((x + 32, 48), source, INK, ImageFont.load_default(14))
    for row, (operator, prompts, figure, title) in enumerate(rows):
        for column, form in enumerate(FORMS):
            corner = (LEFT + column * (PANEL[0] + GAP[0]), TOP + 24 + row * (PANEL[1] + GAP[1]))
            own = [c for c in curves if (c["prompts"], c["form"], c["operator"]) == (prompts, form, operator)]
            if not own:
                continue  # a form that is not swept of this operator
            _panel(
                pen,
                corner,
                f"{operator}, {form}: {title}",
                {c["source"]: [(p["strength"], p[figure]) for p in c["points"]] for c in own},
                (min(0.0, *STRENGTHS[operator]), max(STRENGTHS[operator])),
            )
    path = folder / f"transfer-{architecture}.png"
    picture.save(path, optimize=True)
    return path


def _panel(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    lines: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]],
    reach: tuple[float, float],
) -> None:
    """One pair of axes; a rate's interval is a thin upright line."""
    (x0, y0), (w, h), small = corner, PANEL, ImageFont.load_default(11)

    def at(strength: float, value: float) -> tuple[float, float]:
        return x0 + w * (strength - reach[0]) / (reach[1] - reach[0]), y0 + h * (1 - value)

    pen.text((x0 - 24, y0 - 20), title, INK, small)
    for value in (0.0, 0.5, 1.0):
        pen.line([at(reach[0], value), at(reach[1], value)], PALE)
        pen.text((x0 - 26, at(0, value)[1] - 7), f"{value:g}", INK, small)
    for strength in range(int(reach[0]), int(reach[1]) + 1):
        pen.text((at(strength, 0)[0] - 4, y0 + h + 4), f"{strength}", INK, small)
    for source, points in lines.items():
        for strength, rate in points:
            pen.line([at(strength, rate["low"]), at(strength, rate["high"])], COLOURS[source])
        pen.line([at(strength, rate["value"]) for strength, rate in points], COLOURS[source], 2)
