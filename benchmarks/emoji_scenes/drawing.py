"""Draws things: icons rendered to sprites, blood and flames laid over them, sprites set on a background."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from .concepts import BACKGROUNDS, CONCEPTS, Style

SPRITE = 112  # pixels; sprites are scaled down from here
PICTURE = 128
Sprite = Image.Image  # RGBA


@dataclass(frozen=True)
class Placed:
    """One object of a scene. ``x, y`` is its centre and ``size`` its longer side, in pixels of a 128-pixel picture."""

    concept: str
    x: float
    y: float
    size: float
    angle: float = 0.0
    flip: bool = False
    attribute: str | None = None
    variant: int = 0

    @property
    def extent(self) -> float:
        """The side of all that is drawn: flames reach beyond the thing."""
        return self.size * (FLAMES if self.attribute == "burning" else 1.0)


def render_svg(svg: str, pixels: int = SPRITE) -> Sprite:
    """Render an SVG document to a square RGBA sprite."""
    import resvg_py  # only the making of the world needs it: an optional extra

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels))
    return Image.open(BytesIO(png)).convert("RGBA")


@cache
def _icon_set(folder: str) -> dict:
    return json.loads((Path(folder) / "icons.json").read_text())


def _document(view: str, body: str) -> str:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{view}">{body}</svg>'


@cache
def sprite(icons: Path, package: str, icon: str) -> Sprite | None:
    """The sprite of one icon in one style, cropped to its content; None where the set has no such icon."""
    sheet = _icon_set(str(icons / package))
    entry = sheet["icons"].get(icon) or sheet["icons"].get(
        sheet.get("aliases", {}).get(icon, {}).get("parent")
    )
    if entry is None:
        return None
    w, h = entry.get("width", sheet.get("width", 16)), entry.get("height", sheet.get("height", 16))
    image = render_svg(_document(f"0 0 {w} {h}", entry["body"]))
    box = image.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox()
    return image.crop(box) if box else None


def available(icons: Path, style: Style) -> tuple[str, ...]:
    """The concepts that a style can draw."""
    return tuple(c.name for c in CONCEPTS if sprite(icons, style.package, c.icon) is not None)


def _drop(cx: float, cy: float, r: float, length: float) -> str:
    q, end = r * 0.7, cy + length
    return f'<path d="M{cx - r},{cy} L{cx - q},{end} A{q},{q} 0 0 0 {cx + q},{end} L{cx + r},{cy} Z"/>'


@cache
def _blood(variant: int) -> Sprite:
    """Dark red splashes with drips (unit square of 100), one of several variants."""
    rng = np.random.default_rng(1000 + variant)
    shapes = []
    for _ in range(4):
        cx, cy, r = rng.uniform(18, 82), rng.uniform(12, 62), rng.uniform(10, 17)
        shapes.append(f'<ellipse cx="{cx}" cy="{cy}" rx="{r}" ry="{r * rng.uniform(0.7, 1)}"/>')
        shapes.append(_drop(cx + rng.uniform(-r / 2, r / 2), cy, r * 0.42, rng.uniform(16, 34)))
        for _ in range(3):
            a, d = rng.uniform(0, 2 * math.pi), r * rng.uniform(1.1, 1.5)
            shapes.append(
                f'<circle cx="{cx + d * math.cos(a)}" cy="{cy + d * math.sin(a)}" r="{rng.uniform(1.5, 4)}"/>'
            )
    return render_svg(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><g fill="#8c0010">{"".join(shapes)}</g></svg>'
    )


def _flame(cx: float, base: float, w: float, h: float, lean: float) -> str:
    def tongue(w: float, h: float, colour: str) -> str:
        return (
            f'<path fill="{colour}" d="M{cx - w},{base} '
            f"C{cx - 1.25 * w},{base - 0.5 * h} {cx - 0.35 * w + lean},{base - 0.55 * h} {cx + lean},{base - h} "
            f"C{cx + 0.3 * w + lean},{base - 0.62 * h} {cx + 1.3 * w},{base - 0.5 * h} {cx + w},{base} "
            f'Q{cx},{base + 0.35 * w} {cx - w},{base} Z"/>'
        )

    return (
        tongue(w, h, "#ff6a00") + tongue(w * 0.62, h * 0.66, "#ffb800") + tongue(w * 0.3, h * 0.36, "#fff3a0")
    )


@cache
def _flames(variant: int) -> tuple[Sprite, Sprite]:
    """Flames behind (tall) and in front (low) of a thing, one of several variants."""
    rng = np.random.default_rng(2000 + variant)

    def row(n: int, low: float, high: float) -> str:
        xs = np.linspace(12, 88, n) + rng.uniform(-4, 4, n)
        return "".join(
            _flame(x, 98, rng.uniform(11, 15), rng.uniform(low, high), rng.uniform(-7, 7)) for x in xs
        )

    wrap = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 104">{}</svg>'
    return render_svg(wrap.format(row(5, 62, 96))), render_svg(wrap.format(row(5, 22, 38)))


VARIANTS = 6
FLAMES = 1.3  # a burning thing is so many times as large as the thing


def _square(image: Sprite) -> Sprite:
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side))
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def with_attribute(image: Sprite, attribute: str | None, variant: int) -> Sprite:
    """Lay blood or flames over a square sprite. Flames reach beyond: the result may be larger, same centre."""
    if attribute is None:
        return image
    side = image.width
    if attribute == "bloody":
        blood = _blood(variant).resize((side, side), Image.BILINEAR)
        alpha = np.asarray(image.getchannel("A"), np.float32) / 255
        spread = (
            Image.fromarray((alpha * 255).astype(np.uint8))
            .resize((side // 4, side // 4))
            .resize((side, side), Image.BILINEAR)
        )
        mask = np.asarray(blood.getchannel("A"), np.float32) * np.clip(
            np.asarray(spread, np.float32) / 90, 0, 1
        )
        blood.putalpha(Image.fromarray(mask.astype(np.uint8)))
        out = image.copy()
        out.alpha_composite(blood)
        return out
    behind, front = _flames(variant)
    big = round(side * FLAMES)
    canvas = Image.new("RGBA", (big, big))
    canvas.alpha_composite(behind.resize((big, big), Image.BILINEAR))
    canvas.alpha_composite(image, ((big - side) // 2, (big - side) // 2))
    low = front.resize((big, big), Image.BILINEAR)
    canvas.alpha_composite(low)
    return canvas


def background(name: str) -> Image.Image:
    """A vertical gradient."""
    top, bottom = next((t, b) for n, t, b in BACKGROUNDS if n == name)
    ramp = np.linspace(0, 1, PICTURE)[:, None, None]
    pixels = np.asarray(top) * (1 - ramp) + np.asarray(bottom) * ramp
    return Image.fromarray(np.broadcast_to(pixels, (PICTURE, PICTURE, 3)).astype(np.uint8), "RGB")


def draw(icons: Path, style: Style, ground: str, objects: tuple[Placed, ...]) -> Image.Image:
    """Draw a scene: RGB, 128 × 128."""
    picture = background(ground).convert("RGBA")
    for o in objects:
        icon = next(c.icon for c in CONCEPTS if c.name == o.concept)
        image = sprite(icons, style.package, icon)
        if image is None:
            raise ValueError(
                f"{style.package} has no icon for {o.concept!r}; choose concepts with available()"
            )
        image = _square(image)
        if o.flip:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        if o.angle:
            image = image.rotate(o.angle, Image.BICUBIC)
        full = image.width
        image = with_attribute(image, o.attribute, o.variant)
        side = max(8, round(o.size * image.width / full))
        image = image.resize((side, side), Image.LANCZOS)
        picture.alpha_composite(*_clipped(image, round(o.x - side / 2), round(o.y - side / 2)))
    return picture.convert("RGB")


def _clipped(image: Sprite, left: int, top: int) -> tuple[Sprite, tuple[int, int]]:
    """Cut off what lies outside the picture, as alpha_composite takes no negative offsets."""
    box = (max(0, -left), max(0, -top), min(image.width, PICTURE - left), min(image.height, PICTURE - top))
    return image.crop(box), (max(0, left), max(0, top))
