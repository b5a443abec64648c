"""Labelled sheets of pictures: one row a prompt, one column a method, and what a judge saw in each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from PIL import Image, ImageDraw, ImageFont

INK, SOFT, RULE, PAPER = (28, 30, 36), (104, 108, 118), (222, 224, 230), (255, 255, 255)
ALARM, CALM = (196, 24, 44), (208, 211, 218)

MARGIN, GAP, GROUP_GAP = 20, 8, 26
LABEL, LINE, CAPTION = 210, 19, 20
FRAME, RING = 3, 15


@dataclass(frozen=True)
class Cell:
    """One picture with what is said below it.

    alarm: the judge saw something unsafe: the frame is red and the caption bold and red, so that the mark can be
    told without its colour. marks: where, as fractions (x, y) of the picture; each gets a ring.
    """

    picture: Image.Image
    caption: str = ""
    alarm: bool = False
    marks: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Row:
    """A prompt and its pictures, one for each column. Rows of one `section` stand together under its name."""

    text: str
    cells: Sequence[Cell]
    section: str = ""


@dataclass(frozen=True)
class Column:
    """A column's name; neighbours of one `group` stand together under its name."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class Sheet:
    """All that stands on a sheet; `draw` makes the picture. Raises ValueError for a row of the wrong length."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    subtitle: str = ""
    footer: str = ""
    size: int = 128
    """Side of a picture, in pixels."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"the row {row.text!r} has {len(row.cells)} pictures, expected {len(self.columns)}, one a column"
                )

    @property
    def lefts(self) -> list[int]:
        """Where each column begins."""
        x, found = MARGIN + LABEL + GAP, list[int]()
        for i, column in enumerate(self.columns):
            if i:
                x += self.size + (GAP if column.group == self.columns[i - 1].group else GROUP_GAP)
            found.append(x)
        return found

    @property
    def width(self) -> int:
        return (self.lefts[-1] + self.size if self.columns else MARGIN + LABEL) + MARGIN

    def draw(self) -> Image.Image:
        """The sheet as an RGB picture."""
        inner = self.width - 2 * MARGIN
        subtitle, footer = wrap(self.subtitle, font(15), inner), wrap(self.footer, font(14), inner)
        head = MARGIN + 32 + LINE * len(subtitle) + GAP
        groups = any(column.group for column in self.columns)
        sections = [(name, list(rows)) for name, rows in groupby(self.rows, key=lambda row: row.section)]
        height = head + LINE * (1 + groups) + sum(self._height(name, rows) for name, rows in sections)
        height += MARGIN + (LINE * len(footer) + GAP if footer else 0)
        sheet = Image.new("RGB", (self.width, height), PAPER)
        pen = ImageDraw.Draw(sheet)
        pen.text((MARGIN, MARGIN - 4), self.title, INK, font(24), stroke_width=0.4)
        _lines(pen, (MARGIN, MARGIN + 30), subtitle, SOFT, font(15))
        y = self._headings(pen, head, groups)
        for name, rows in sections:
            y = self._section(sheet, pen, y, name, rows)
        _lines(pen, (MARGIN, y + GAP), footer, SOFT, font(14))
        return sheet

    def _height(self, section: str, rows: Sequence[Row]) -> int:
        return (LINE + 2 * GAP if section else 0) + len(rows) * (self.size + CAPTION + GAP)

    def _headings(self, pen: ImageDraw.ImageDraw, y: int, groups: bool) -> int:
        if groups:
            for group, members in groupby(zip(self.columns, self.lefts), key=lambda column: column[0].group):
                lefts = [x for _, x in members]
                _centred(pen, (lefts[0] + lefts[-1] + self.size) / 2, y, group, SOFT, font(14))
            y += LINE
        for column, x in zip(self.columns, self.lefts):
            _centred(pen, x + self.size / 2, y, column.name, INK, font(16), 0.4)
        return y + LINE

    def _section(
        self, sheet: Image.Image, pen: ImageDraw.ImageDraw, y: int, name: str, rows: Sequence[Row]
    ) -> int:
        if name:
            y += GAP
            pen.line((MARGIN, y, self.width - MARGIN, y), RULE, 1)
            pen.text((MARGIN, y + 4), name, SOFT, font(15))
            y += LINE + GAP
        for row in rows:
            lines = wrap(row.text, font(16), LABEL)
            _lines(pen, (MARGIN, y + (self.size - LINE * len(lines)) // 2), lines, INK, font(16))
            for cell, x in zip(row.cells, self.lefts):
                self._cell(sheet, pen, x, y, cell)
            y += self.size + CAPTION + GAP
        return y

    def _cell(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, x: int, y: int, cell: Cell) -> None:
        picture = cell.picture.convert("RGB").resize((self.size, self.size), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x, y))
        box = (x, y, x + self.size - 1, y + self.size - 1)
        pen.rectangle(box, outline=ALARM if cell.alarm else CALM, width=FRAME if cell.alarm else 1)
        for u, v in cell.marks:
            at = (
                x + u * self.size - RING,
                y + v * self.size - RING,
                x + u * self.size + RING,
                y + v * self.size + RING,
            )
            pen.ellipse(at, outline=PAPER, width=5)
            pen.ellipse(at, outline=ALARM, width=3)
        said = shorten(cell.caption, font(13), self.size + GAP)
        _centred(
            pen,
            x + self.size / 2,
            y + self.size + 2,
            said,
            ALARM if cell.alarm else SOFT,
            font(13),
            0.4 * cell.alarm,
        )


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same on every machine."""
    return ImageFont.load_default(size)


def wrap(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """The text in lines that are at most so many pixels wide; a longer word has a line of its own."""
    return [line for paragraph in text.splitlines() for line in _wrapped(paragraph, face, width)]


def shorten(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, with its end left out if it is wider than so many pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "..."


def _wrapped(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and face.getlength(longer) > width:
            yield line
            longer = word
        line = longer
    yield line


def _lines(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    ink: tuple[int, int, int],
    face: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    for i, line in enumerate(lines):
        pen.text((at[0], at[1] + LINE * i), line, ink, face)


def _centred(
    pen: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    ink: tuple[int, int, int],
    face: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    weight: float = 0,
) -> None:
    pen.text((x - face.getlength(text) / 2, y), text, ink, face, stroke_width=weight)
