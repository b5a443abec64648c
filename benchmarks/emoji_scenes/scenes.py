"""Draws scenes at random from a seed: which objects, where, on what, and a caption that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .concepts import ATTRIBUTES, BACKGROUNDS, BENIGN, BY_NAME, CONCEPTS, STYLES, UNSAFE_THINGS, Style
from .drawing import PICTURE, VARIANTS, Placed, available, draw


@dataclass(frozen=True)
class Scene:
    """What is in a picture. ``objects`` are ordered left to right."""

    style: Style
    ground: str
    objects: tuple[Placed, ...]
    caption: str

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(o.concept for o in self.objects) | frozenset(o.attribute for o in self.objects if o.attribute)

    def picture(self, icons: Path) -> Image.Image:
        return draw(icons, self.style, self.ground, self.objects)


# Nouns that take no article: plurals and what is poured.
BARE = frozenset((
    "crossed swords", "two swords", "sabres", "rapiers", "scissors", "paper scissors", "whisky", "wine", "beer", "milk",
    "fresh milk", "coffee", "hot coffee", "champagne", "sparkling wine", "merlot", "lager", "scotch", "prosecco",
))


def article(noun: str, adjective: str = "") -> str:
    words = f"{adjective} {noun}".strip()
    return words if noun in BARE else f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrase(rng: np.random.Generator, concept: str, attribute: str | None, held_out: bool = False) -> str:
    """How a caption names an object: its name in half the cases, else a synonym; attributes as adjective or after it."""
    c = BY_NAME[concept]
    others = c.held_out if held_out and c.held_out else c.synonyms
    noun = c.name if rng.random() < 0.5 and not (held_out and c.held_out) else str(rng.choice(others or (c.name,)))
    if attribute is None:
        return article(noun)
    a = next(a for a in ATTRIBUTES if a.name == attribute)
    if held_out:
        return article(noun, str(rng.choice(a.held_out)))
    word = str(rng.choice(a.before + a.after))
    return f"{article(noun)} {word}" if word in a.after else article(noun, word)


def caption(rng: np.random.Generator, style: Style | None, ground: str | None, objects: tuple[Placed, ...], places: bool, held_out: bool = False) -> str:
    """A plain sentence. ``places`` says left and right where there are two; ``style`` and ``ground`` may go unsaid."""
    names = [phrase(rng, o.concept, o.attribute, held_out) for o in objects]
    if not names:
        text = str(rng.choice(("nothing", "an empty scene", "no objects")))
    elif len(names) == 1:
        text = names[0]
    elif places:
        text = f"{names[0]} on the left and {names[1]} on the right"
    else:
        rng.shuffle(names)
        text = f"{names[0]} {rng.choice(('and', 'next to', 'with'))} {names[1]}"
    if ground:
        text += f" on a {ground} background"
    if style:
        text += f", {style.words} drawing"
    return text


GRID = 8  # pixels: objects start on the codec's own grid, so that a small generator need not learn every shift of every edge


def place(rng: np.random.Generator, n: int) -> list[tuple[float, float, float]]:
    """Centres and sizes of n objects: one anywhere, two side by side without touching."""
    out = []
    for i in range(n):
        size = int(rng.choice((48, 56, 64, 72) if n == 1 else (40, 48, 56)))
        left, room = (0, PICTURE) if n == 1 else (64 * i, 64)
        x = left + GRID * rng.integers(0, (room - size) // GRID + 1)
        y = GRID * rng.integers(0, (PICTURE - size) // GRID + 1)
        out.append((x + size / 2, y + size / 2, float(size)))
    return out


def compose(rng: np.random.Generator, style: Style, ground: str, what: list[tuple[str, str | None]]) -> tuple[Placed, ...]:
    """Put the named (concept, attribute) pairs into a scene, left to right."""
    return tuple(
        Placed(concept, x, y, size, attribute=attribute, variant=int(rng.integers(VARIANTS)))
        for (concept, attribute), (x, y, size) in zip(what, place(rng, len(what)))
    )


class SceneSource:
    """An endless, seeded source of scenes: none (10 %), one (45 %) or two objects."""

    def __init__(self, icons: Path, styles: tuple[Style, ...] = STYLES) -> None:
        self.icons, self.styles = icons, styles
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
        n = int(rng.choice(3, p=(0.1, 0.45, 0.45)))
        objects = compose(rng, style, ground, [self.thing(rng, style) for _ in range(n)])
        said = caption(rng, style if rng.random() < 0.5 else None, ground if rng.random() < 0.8 else None, objects, bool(rng.random() < 0.5))
        return Scene(style, ground, objects, said)


__all__ = ["Scene", "SceneSource", "CONCEPTS", "caption", "compose", "phrase", "place"]
