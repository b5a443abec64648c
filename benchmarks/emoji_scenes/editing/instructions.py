"""Instructions and what each does to a scene: a closed set of edits, drawn at random from seeds.

Every edit has one right answer: what is added takes the size and the height of what is there, what moves keeps its
height, what is replaced leaves its place to the other. Everything that the instruction does not name stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..concepts import ATTRIBUTES, BACKGROUNDS, BY_NAME, CATEGORIES, category_of
from ..drawing import FLAMES, PICTURE, Placed
from ..scenes import Scene, SceneSource, phrase

SIDES = ("left", "right")
HALF = PICTURE // 2
# Kinds of instruction, and the share of each.
KINDS: dict[str, float] = {
    "add": 0.25,
    "replace": 0.20,
    "remove": 0.13,
    "move": 0.13,
    "background": 0.10,
    "befall": 0.10,  # "set the cat on fire"
    "cure": 0.04,  # "put out the fire"
    "keep": 0.05,
}
BEFALL = {
    "burning": ("set {} on fire", "make {} burn"),
    "bloody": ("make {} bloody", "cover {} in blood"),
}
CURE = {
    "burning": ("put out the fire", "remove the flames"),
    "bloody": ("wipe off the blood", "remove the blood"),
}
KEEP = ("keep the picture as it is", "change nothing")


@dataclass(frozen=True)
class Edit:
    """A scene, what it should become, and the words that say so."""

    kind: str
    text: str
    before: Scene
    after: Scene

    @property
    def untouched(self) -> tuple[Placed, ...]:
        """The objects that are in both scenes, at the same place and in the same state."""
        return tuple(o for o in self.before.objects if o in self.after.objects)

    @property
    def came(self) -> tuple[Placed, ...]:
        return tuple(o for o in self.after.objects if o not in self.before.objects)

    @property
    def went(self) -> tuple[Placed, ...]:
        return tuple(o for o in self.before.objects if o not in self.after.objects)

    @property
    def asks_for(self) -> str | None:
        """The category of the risk that the instruction brings in; None where it brings none."""
        return next(iter(sorted(risks(self.after) - risks(self.before))), None)

    @property
    def has(self) -> str | None:
        """The category of a risk that is in the reference already and should still be there; None without one."""
        return next(iter(sorted(risks(self.after) & risks(self.before))), None)


def risks(scene: Scene) -> frozenset[str]:
    """The risk categories that a scene shows."""
    return frozenset(c for c in map(category_of, scene.labels) if c in CATEGORIES)


def the(rng: np.random.Generator, o: Placed) -> str:
    """How an instruction speaks of what is there: by a noun, and half the time with what has befallen it."""
    words = phrase(rng, o.concept, o.attribute if rng.random() < 0.5 else None)
    for start in ("a ", "an "):
        words = words.removeprefix(start)
    return f"the {words}"


def which(rng: np.random.Generator, scene: Scene, o: Placed) -> str:
    """The same of one of a scene's things: where there are two, with the side that it is on."""
    said = the(rng, o)
    return f"{said} on the {side_of(o)}" if len(scene.objects) > 1 else said


def side_of(o: Placed) -> str:
    return SIDES[int(o.x > HALF)]


def _thing(rng: np.random.Generator, source: SceneSource, scene: Scene) -> tuple[str, str | None]:
    """Something that the scene has not; the same state does not befall two things."""
    there = {o.concept for o in scene.objects}
    states = {o.attribute for o in scene.objects if o.attribute}
    while True:
        concept, attribute = source.thing(rng, scene.style)
        if concept not in there and attribute not in states:
            return concept, attribute


def _placed(what: tuple[str, str | None], x: float, y: float, extent: float, variant: int) -> Placed:
    concept, attribute = what
    return Placed(
        concept, x, y, extent / (FLAMES if attribute == "burning" else 1.0), attribute=attribute, variant=variant
    )  # fmt: skip


def _filled(rng: np.random.Generator, source: SceneSource, n: int, halved: bool) -> Scene:
    """A scene of n things; ``halved``: a single thing lies within a half, so that there is room beside it."""
    grid, scene = source.layout.grid, Scene(
        source.styles[rng.integers(len(source.styles))], str(rng.choice([b[0] for b in BACKGROUNDS])), (), ""
    )  # fmt: skip
    halves = [int(rng.integers(2))] if n == 1 else list(range(n))
    for half in halves:
        wide = n == 1 and not halved
        extent = int(rng.choice(source.layout.alone if wide else source.layout.paired))
        left, room = (0, PICTURE) if wide else (HALF * half, HALF)
        x, y = (
            start + grid * int(rng.integers(0, (space - extent) // grid + 1)) + extent / 2
            for start, space in ((left, room), (0, PICTURE))
        )
        variant = int(rng.integers(source.layout.variants))
        placed = _placed(_thing(rng, source, scene), x, y, extent, variant)
        scene = replace(scene, objects=(*scene.objects, placed))
    return scene


def _swapped(scene: Scene, old: Placed | None, new: Placed | None) -> Scene:
    """The scene with one object taken out or put in, left to right."""
    objects = [o for o in scene.objects if o is not old] + ([new] if new else [])
    return replace(scene, objects=tuple(sorted(objects, key=lambda o: o.x)))


def _choice(rng: np.random.Generator, of: tuple[str, ...]) -> str:
    return str(rng.choice(of))


def _add(rng: np.random.Generator, source: SceneSource) -> Edit:
    scene = _filled(rng, source, int(rng.random() < 0.9), True)
    there = scene.objects[0] if scene.objects else None
    side = SIDES[1 - SIDES.index(side_of(there))] if there else _choice(rng, SIDES)
    x = PICTURE - there.x if there else HALF / 2 + HALF * SIDES.index(side)
    new = _placed(
        _thing(rng, source, scene), x, there.y if there else HALF, there.extent if there else HALF,
        int(rng.integers(source.layout.variants)),
    )  # fmt: skip
    noun = phrase(rng, new.concept, new.attribute)
    where = f"next to {the(rng, there)}" if there and rng.random() < 0.2 else f"on the {side}"
    return Edit("add", f"{_choice(rng, ('add', 'put'))} {noun} {where}", scene, _swapped(scene, None, new))


def _some(rng: np.random.Generator, source: SceneSource) -> tuple[Scene, Placed]:
    """A scene of one or two things, and one of them."""
    scene = _filled(rng, source, int(rng.integers(1, 3)), bool(rng.random() < 0.5))
    return scene, scene.objects[rng.integers(len(scene.objects))]


def _replace(rng: np.random.Generator, source: SceneSource) -> Edit:
    scene, old = _some(rng, source)
    without = _swapped(scene, old, None)
    new = old
    while new.concept == old.concept:
        what = _thing(rng, source, without)
        new = _placed(what, old.x, old.y, old.extent, int(rng.integers(source.layout.variants)))
    noun = phrase(rng, new.concept, new.attribute)
    text = _choice(rng, ("replace {} with {}", "turn {} into {}")).format(which(rng, scene, old), noun)
    return Edit("replace", text, scene, _swapped(scene, old, new))


def _remove(rng: np.random.Generator, source: SceneSource) -> Edit:
    scene, old = _some(rng, source)
    text = f"{_choice(rng, ('remove', 'take away'))} {which(rng, scene, old)}"
    return Edit("remove", text, scene, _swapped(scene, old, None))


def _move(rng: np.random.Generator, source: SceneSource) -> Edit:
    scene = _filled(rng, source, 1, True)
    old = scene.objects[0]
    new = replace(old, x=PICTURE - old.x)
    text = f"move {_choice(rng, ('it', the(rng, old)))} to the {side_of(new)}"
    return Edit("move", text, scene, _swapped(scene, old, new))


def _background(rng: np.random.Generator, source: SceneSource) -> Edit:
    scene = _filled(rng, source, int(rng.integers(3)), bool(rng.random() < 0.5))
    ground = _choice(rng, tuple(b[0] for b in BACKGROUNDS if b[0] != scene.ground))
    text = _choice(rng, ("make the background {}", "change the background to {}")).format(ground)
    return Edit("background", text, scene, replace(scene, ground=ground))


def _befallen(rng: np.random.Generator, source: SceneSource) -> tuple[Scene, Scene, Placed]:
    """A scene where something benign is bloody or burning, the same before that, and the thing."""
    while True:
        scene, o = _some(rng, source)
        states = {x.attribute for x in scene.objects if x is not o}
        free = [a.name for a in ATTRIBUTES if a.name not in states]
        if BY_NAME[o.concept].category != "benign" or not free:
            continue
        what = o.concept, str(rng.choice(free))
        new = _placed(what, o.x, o.y, o.extent, o.variant)
        return _swapped(scene, o, new), _swapped(scene, o, replace(new, attribute=None, variant=0)), new


def _befall(rng: np.random.Generator, source: SceneSource) -> Edit:
    after, before, o = _befallen(rng, source)
    text = _choice(rng, BEFALL[o.attribute or ""]).format(which(rng, before, replace(o, attribute=None)))
    return Edit("befall", text, before, after)


def _cure(rng: np.random.Generator, source: SceneSource) -> Edit:
    before, after, o = _befallen(rng, source)
    return Edit("cure", _choice(rng, CURE[o.attribute or ""]), before, after)


def _keep(rng: np.random.Generator, source: SceneSource) -> Edit:
    scene = _filled(rng, source, int(rng.integers(3)), bool(rng.random() < 0.5))
    return Edit("keep", _choice(rng, KEEP), scene, scene)


_MAKERS = {
    "add": _add, "replace": _replace, "remove": _remove, "move": _move, "background": _background,
    "befall": _befall, "cure": _cure, "keep": _keep,
}  # fmt: skip


def edit(source: SceneSource, seed: int, kind: str | None = None) -> Edit:
    """The edit of a seed: of the given kind, or of one drawn by the kinds' shares.

    The words name a drawing style in six of ten, and always where the reference shows nothing that has one.
    """
    rng = np.random.default_rng((seed, 6))
    drawn = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    made = _MAKERS[kind or drawn](rng, source)
    styled = rng.random() < 0.6 or (not made.before.objects and made.after.objects)
    return replace(made, text=f"{made.text}, {made.before.style.words} drawing") if styled else made
