"""Draws scenes at random from a seed: which objects, where, on what, and a caption that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .concepts import ATTRIBUTES, BACKGROUNDS, BENIGN, BY_NAME, STYLES, UNSAFE_THINGS, Style
from .drawing import FLAMES, PICTURE, VARIANTS, Placed, available, draw


@dataclass(frozen=True)
class Scene:
    """What is in a picture. ``objects`` are ordered left to right."""

    style: Style
    ground: str
    objects: tuple[Placed, ...]
    caption: str

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(o.concept for o in self.objects) | frozenset(
            o.attribute for o in self.objects if o.attribute
        )

    def picture(self, icons: Path) -> Image.Image:
        return draw(icons, self.style, self.ground, self.objects)


# Nouns that take no article: plurals and what is poured.
BARE = frozenset(
    (
        "crossed swords",
        "two swords",
        "sabres",
        "rapiers",
        "scissors",
        "paper scissors",
        "whisky",
        "wine",
        "beer",
        "milk",
        "fresh milk",
        "coffee",
        "hot coffee",
        "champagne",
        "sparkling wine",
        "merlot",
        "lager",
        "scotch",
        "prosecco",
    )
)


def article(noun: str, adjective: str = "") -> str:
    words = f"{adjective} {noun}".strip()
    return words if noun in BARE else f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrase(rng: np.random.Generator, concept: str, attribute: str | None, held_out: bool = False) -> str:
    """How a caption names an object: its name or, in half the cases, a synonym; attributes before or after it."""
    c = BY_NAME[concept]
    others = c.held_out if held_out and c.held_out else c.synonyms
    noun = (
        c.name
        if rng.random() < 0.5 and not (held_out and c.held_out)
        else str(rng.choice(others or (c.name,)))
    )
    if attribute is None:
        return article(noun)
    a = next(a for a in ATTRIBUTES if a.name == attribute)
    if held_out:
        return article(noun, str(rng.choice(a.held_out)))
    word = str(rng.choice(a.before + a.after))
    return f"{article(noun)} {word}" if word in a.after else article(noun, word)


def caption(
    rng: np.random.Generator,
    style: Style | None,
    ground: str | None,
    objects: tuple[Placed, ...],
    places: bool,
    held_out: bool = False,
    in_order: bool = False,
) -> str:
    """A plain sentence. ``places`` says left and right where there are two; ``style`` and ``ground`` may go unsaid.

    ``in_order``: two things are named from left to right where nothing else is said.
    """
    names = [phrase(rng, o.concept, o.attribute, held_out) for o in objects]
    if not names:
        text = str(rng.choice(("nothing", "an empty scene", "no objects")))
    elif len(names) == 1:
        text = names[0]
    elif places:
        text = f"{names[0]} on the left and {names[1]} on the right"
        if in_order and rng.random() < 0.5:
            text = f"{names[1]} on the right and {names[0]} on the left"
    else:
        if not in_order:
            rng.shuffle(names)
        text = f"{names[0]} {rng.choice(('and', 'next to', 'with'))} {names[1]}"
    if ground:
        text += f" on a {ground} background"
    if style:
        text += f", {style.words} drawing"
    return text


@dataclass(frozen=True)
class Layout:
    """Where objects may lie, in pixels.

    The codec's patches are 8 wide and the generator's tokens 16: the finer the grid, and the more sizes, the more
    shifts of every edge a small generator has to learn.
    """

    grid: int = 16
    alone: tuple[int, ...] = (64, 80)  # sizes of a single object, each as likely
    paired: tuple[int, ...] = (48, 64, 64)
    variants: int = 2  # of blood and of flames
    flames_within: bool = True  # flames count as part of an object's size
    counts: tuple[float, float, float] = (0.1, 0.45, 0.45)  # shares of scenes with none, one and two objects
    in_order: bool = False  # captions name them from left to right


FINE = Layout(8, (48, 56, 64, 72), (40, 48, 56), VARIANTS, False)
# Where a caption leaves the order open, a small generator splits the difference and draws one of the two things twice.
PAIRS = Layout(counts=(0.06, 0.34, 0.6), in_order=True)


def place(rng: np.random.Generator, n: int, layout: Layout) -> list[tuple[float, float, float]]:
    """Centres and sizes of n objects: one anywhere, two side by side without touching."""
    out = []
    for i in range(n):
        size = int(rng.choice(layout.alone if n == 1 else layout.paired))
        left, room = (0, PICTURE) if n == 1 else (64 * i, 64)
        x = left + layout.grid * rng.integers(0, (room - size) // layout.grid + 1)
        y = layout.grid * rng.integers(0, (PICTURE - size) // layout.grid + 1)
        out.append((x + size / 2, y + size / 2, float(size)))
    return out


def compose(
    rng: np.random.Generator, what: list[tuple[str, str | None]], layout: Layout
) -> tuple[Placed, ...]:
    """Put the named (concept, attribute) pairs into a scene, left to right."""
    within = {"burning": FLAMES if layout.flames_within else 1.0}
    return tuple(
        Placed(
            concept,
            x,
            y,
            size / within.get(attribute or "", 1.0),
            attribute=attribute,
            variant=int(rng.integers(layout.variants)),
        )
        for (concept, attribute), (x, y, size) in zip(what, place(rng, len(what), layout))
    )


class SceneSource:
    """An endless, seeded source of scenes with none, one or two objects."""

    def __init__(self, icons: Path, styles: tuple[Style, ...] = STYLES, layout: Layout = Layout()) -> None:
        self.icons, self.styles, self.layout = icons, styles, layout
        self.can_draw = {s.package: frozenset(available(icons, s)) for s in styles}

    def thing(self, rng: np.random.Generator, style: Style) -> tuple[str, str | None]:
        """A weapon or a drink (35 %), else a benign thing, of which 4 in 10 are bloody or burning."""
        drawable = self.can_draw[style.package]
        pool = UNSAFE_THINGS if rng.random() < 0.35 else BENIGN
        concept = str(rng.choice([c.name for c in pool if c.name in drawable]))
        attributed = pool is BENIGN and rng.random() < 0.4
        return concept, str(rng.choice([a.name for a in ATTRIBUTES])) if attributed else None

    def scene(self, seed: int) -> Scene:
        rng = np.random.default_rng(seed)
        style = self.styles[rng.integers(len(self.styles))]
        ground = str(rng.choice([b[0] for b in BACKGROUNDS]))
        n = int(rng.choice(3, p=self.layout.counts))
        what = [self.thing(rng, style) for _ in range(n)]
        objects = compose(rng, what, self.layout)
        said = caption(
            rng,
            style if rng.random() < 0.85 else None,
            ground if rng.random() < 0.8 else None,
            objects,
            bool(rng.random() < 0.5),
            in_order=self.layout.in_order,
        )
        return Scene(style, ground, objects, said)
