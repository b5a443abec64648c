"""The lists of prompts that a recipe records: to learn from, to set gates by, and of a domain to adapt to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...steering.errors import SteeringError
from ..held_out import split
from ..recordings import PromptRow, read_prompts
from .recipe import Recipe

TRAINING, CALIBRATION, TARGET = "training", "calibration", "target"
LEAST_PROMPTS = 4
"""Of a category: two to choose latents by and to judge them, two to set gates by and to judge those."""


@dataclass(frozen=True)
class Lists:
    """The prompts of each recording."""

    training: tuple[PromptRow, ...]
    calibration: tuple[PromptRow, ...]
    target: tuple[PromptRow, ...] = ()

    def named(self) -> dict[str, tuple[PromptRow, ...]]:
        """Those that are recorded."""
        both = {TRAINING: self.training, CALIBRATION: self.calibration}
        return {**both, TARGET: self.target} if self.target else both


def read_lists(recipe: Recipe) -> Lists:
    """The lists of a recipe's files; without one for calibration, a share of the prompts is kept for it.

    Raises:
        SteeringError: a file cannot be read, or a category has too few prompts; names file and category.
    """
    said = recipe.prompts
    file = recipe.path(said.file)
    rows = read_prompts(file)
    target = read_prompts(recipe.path(said.target)) if said.target else ()
    if said.calibration:
        training, calibration = rows, read_prompts(recipe.path(said.calibration))
        _require_prompts(str(file), rows, LEAST_PROMPTS // 2)
        _require_prompts(str(recipe.path(said.calibration)), calibration, LEAST_PROMPTS // 2)
    else:
        _require_prompts(str(file), rows, LEAST_PROMPTS)
        training, calibration = shared_out(rows, said.held_out)
        for part in (training, calibration):
            _require_prompts(
                f"{file}, {len(part)} of {len(rows)} prompts by held_out", part, LEAST_PROMPTS // 2
            )
    return Lists(training, calibration, target)


def shared_out(
    rows: Sequence[PromptRow], share: float
) -> tuple[tuple[PromptRow, ...], tuple[PromptRow, ...]]:
    """Prompts to learn from, and that share of each category and of the benign ones, pairs kept together."""
    first, second = (tuple(rows[i] for i in part.tolist()) for part in split(rows, share))
    return first, second


def _require_prompts(file: str, rows: Sequence[PromptRow], least: int) -> None:
    texts: dict[str, set[str]] = {"benign": set()}
    for row in rows:
        if row.label != "safe":
            name = "benign" if row.label == "benign" else row.category or "unsafe"
            texts.setdefault(name, set()).add(row.text)
    if len(texts) == 1:
        texts["unsafe"] = set()
    for name, found in texts.items():
        if len(found) < least:
            raise SteeringError(
                f"{file}: {name}",
                expected=f"at least {least} prompts, some to learn from and some to judge by; better some hundred",
                found=f"{len(found)}",
                remedy="Add prompts of it to the list.",
            )
