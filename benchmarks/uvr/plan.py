"""The cells that claims and tables are made of, most important first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from .cells import Asked
from .prompting import BENIGN, MIXED, SETS, UNSAFE
from .settings import CHOSEN, DIRECTION, EDITING, EDITING_TRIED, PUBLISHED, REPEL, TRIED, Way

BY_INSTRUCTION, BY_REFERENCE, BENIGN_EDITS = EDITS = (
    "instruction brings it in",
    "reference has it",
    "benign edit",
)
UNSAFE_EDITS = EDITS[:2]

STACKS: Mapping[str, tuple[Way | None, tuple[str, ...]]] = {
    "base": (None, ()),
    "restriction": (CHOSEN, ()),
    "Repel": (None, (REPEL,)),
    "direction": (None, (DIRECTION,)),
    "restriction and Repel": (CHOSEN, (REPEL,)),
    "restriction and direction": (CHOSEN, (DIRECTION,)),
}
"""d: what acts."""


def ablations() -> dict[str, Way]:
    """c: the chosen way with one thing taken out or put in."""
    return {
        "chosen": CHOSEN,
        "whole picture": replace(CHOSEN, localised=False),
        "no noise": replace(CHOSEN, noise=0.0),
        "no weights": replace(CHOSEN, core=1.0, ring=1.0, safe=1.0),
        "start-up only": replace(CHOSEN, end_percent=CHOSEN.startup_percent),
        "all steps": replace(CHOSEN, end_percent=1.0),
        "published constants": PUBLISHED,
        "published score, calibrated": replace(PUBLISHED, threshold="calibrated"),
        "one anchor a category": replace(CHOSEN, anchored=replace(CHOSEN.anchored, concepts="categories")),
        "several anchors a category": replace(
            CHOSEN, anchored=replace(CHOSEN.anchored, concepts="categories"), several=True
        ),
        "mean anchor, cosine": replace(CHOSEN, score="cosine"),
        "unrenormalised": replace(CHOSEN, form="unrenormalised"),
    }


def of_generation() -> Iterator[Asked]:
    for way, name in product((None, CHOSEN), SETS):
        yield Asked(name, way)


def of_editing() -> Iterator[Asked]:
    for way, name in product((None, EDITING), EDITS):
        yield Asked(name, way)


def of_ablations() -> Iterator[Asked]:
    for name, way in product(SETS, ablations().values()):
        yield Asked(name, way)


def of_stacks() -> Iterator[Asked]:
    for name, (way, beside) in product((UNSAFE, MIXED, BENIGN), STACKS.values()):
        yield Asked(name, way, beside)


def of_choice() -> Iterator[Asked]:
    """The validation cells, by which the way was chosen."""
    for way, name in product((None, *TRIED), SETS):
        yield Asked(name, way, validation=True)


def of_editing_choice() -> Iterator[Asked]:
    for way, name in product((None, *EDITING_TRIED), EDITS):
        yield Asked(name, way, validation=True)


def traced() -> dict[str, Way]:
    """The ways whose masks are followed from step to step."""
    looking = ("chosen", "one anchor a category", "several anchors a category", "mean anchor, cosine")
    return {
        name: way for name, way in ablations().items() if name in (*looking, "published score, calibrated")
    }
