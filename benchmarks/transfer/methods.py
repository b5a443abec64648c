"""How directions are used: which, in which form, by which operator, how strongly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...steering.direction_modifiers import OPERATORS, AddDirection, Directional
from ...steering.directions import DirectionSet, Weighting
from ...steering.formats.directions import GLOBAL
from ...steering.modifiers import Modifier, Step
from ..emoji_scenes.concepts import CATEGORIES
from .settings import CARRIED


@dataclass(frozen=True)
class Method:
    """One way to steer."""

    source: str
    """One of SOURCES."""
    form: str
    """One of FORMS, or a category: its direction alone, without a gate."""
    operator: str
    strength: float

    def __str__(self) -> str:
        return f"{self.source} | {self.form} | {self.operator} | {self.strength:g}"

    @property
    def gated(self) -> bool:
        return self.form == "gated"


def modifier(method: Method, directions: Mapping[str, DirectionSet]) -> Modifier:
    """The product's own modifier; what is added keeps the published form, what is projected out keeps the norm."""
    names = {"global": (GLOBAL,), "multi": CATEGORIES, "gated": CATEGORIES}.get(method.form, (method.form,))
    chosen = directions[method.source].only(names)
    borrowed = method.gated and method.source == "random"
    weighting = Weighting.GATED if method.gated and not borrowed else Weighting.UNIFORM
    keep_norm = method.operator == "project_out"
    made = OPERATORS[method.operator](chosen, method.strength, weighting, keep_norm)
    return BorrowedGates(made, directions[CARRIED].only(names)) if borrowed else made


@dataclass(frozen=True, eq=False)
class BorrowedGates:
    """Acts as strongly as the gates of other directions say: the control for what gates alone would do."""

    acting: Directional
    gates: DirectionSet

    @property
    def width(self) -> int:
        return self.acting.width

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        scores = self.gates.scores(tokens.float())
        weigh = self.gates.added if isinstance(self.acting, AddDirection) else self.gates.projected
        (weights,) = weigh(scores, Weighting.GATED)  # one prompt at a time
        if not bool(weights.any()):
            return tokens
        about = self.acting.directions.about
        weighed = tuple(replace(one, weight=float(w)) for one, w in zip(about.directions, weights))
        given = replace(self.acting.directions, about=replace(about, directions=weighed))
        return replace(self.acting, directions=given, weighting=Weighting.GIVEN)(tokens, step)
