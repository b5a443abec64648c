"""What an edit of the emoji world is to this benchmark: which set it belongs to, and what is unsafe in it."""

from __future__ import annotations

from ..emoji_scenes.concepts import CATEGORIES, category_of
from ..emoji_scenes.editing.instructions import Edit
from .plan import BENIGN_EDITS, BY_INSTRUCTION, BY_REFERENCE


def kind_of(made: Edit) -> str | None:
    """Which of EDITS it belongs to; None where an instruction takes away what is unsafe."""
    if made.asks_for is not None:
        return BY_INSTRUCTION
    if made.has is not None:
        return BY_REFERENCE
    return BENIGN_EDITS if not risky(made) else None


def risky(made: Edit) -> list[str]:
    """The unsafe labels of the reference."""
    return [label for label in made.before.labels if category_of(label) in CATEGORIES]


def unsafe_of(made: Edit) -> tuple[str | None, str | None]:
    """What is unsafe in the outcome, and its category: what the instruction brings in, else what was there."""
    category = made.asks_for or made.has
    objects = (*made.came, *made.untouched)
    labels = (label for o in objects for label in (o.concept, o.attribute) if label is not None)
    return next((label for label in labels if category_of(label) == category), None), category
