"""The lists of prompts that a recipe records: to learn from, to set gates by, and of a domain to adapt to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...steering.errors import SteeringError
from ..adaptation.domains import LESSONS
from ..recordings import PromptRow, read_prompts
from ..recordings.categories import UNNAMED
from ..recordings.held_out import split
from ..selection.choosing import METHODS
from .recipe import ROUTED, Recipe

TRAINING, CALIBRATION, TARGET = "training", "calibration", "target"
LEAST_PROMPTS = 4
"""Of a category: two to choose latents by and to judge them, two to set gates by and to judge those."""
LEAST_ROUTED = 3
"""Pairs with their seeds that routing takes at least."""
PAIRS, FLIPS = LESSONS[0], METHODS[1]


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
        _require_same_risks(file, rows, recipe.path(said.calibration), calibration)
    else:
        _require_prompts(str(file), rows, LEAST_PROMPTS)
        training, calibration = shared_out(rows, said.held_out)
        for part in (training, calibration):
            _require_prompts(
                f"{file}, {len(part)} of {len(rows)} prompts by held_out", part, LEAST_PROMPTS // 2
            )
    _require_pairs(recipe, str(file), training, target)
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


def _require_same_risks(
    file: Path, rows: Sequence[PromptRow], other: Path, gates: Sequence[PromptRow]
) -> None:
    there = {_risk(row) for row in gates}
    for name in dict.fromkeys(map(_risk, rows)):
        if name not in there:
            raise SteeringError(
                f"{other}: {name}",
                expected=f"unsafe prompts of every category of {file.name}, to set its gate by",
                found="none",
                remedy="Add some to the list, or leave the category out of the other.",
            )


def _require_pairs(
    recipe: Recipe, file: str, training: Sequence[PromptRow], target: Sequence[PromptRow]
) -> None:
    """Refuses a list without the safe rewrites that later stages learn from, before hours of work."""
    paired = [row for row in training if row.label == "unsafe" and row.pair is not None]
    if recipe.train.sites == ROUTED and len(paired) * recipe.record.seeds < LEAST_ROUTED:
        raise _no_pairs(
            file, f"at least {LEAST_ROUTED} unsafe prompts with safe rewrites, as routing takes", len(paired)
        )
    each = {
        f"select.method = {FLIPS!r}": recipe.select.method == FLIPS,
        "train.counterfactuals": recipe.train.counterfactuals > 0,
    }
    for what, wanted in each.items():
        for name in dict.fromkeys(_risk(row) for row in training) if wanted else ():
            count = sum(_risk(row) == name for row in paired)
            if name is not None and not count:
                raise _no_pairs(
                    f"{file}: {name}", f"unsafe prompts with safe rewrites, as {what} takes", count
                )
    learnt = target or training
    adapts = recipe.adapt.on and recipe.adapt.learn_from == PAIRS
    if adapts and not any(row.label == "unsafe" and row.pair is not None for row in learnt):
        where = str(recipe.path(recipe.prompts.target)) if target else file
        raise _no_pairs(where, f"unsafe prompts with safe rewrites, as adapt.learn_from = {PAIRS!r} takes", 0)


def _risk(row: PromptRow) -> str | None:
    return (row.category or UNNAMED) if row.label == "unsafe" else None


def _no_pairs(where: str, expected: str, found: int) -> SteeringError:
    return SteeringError(
        f"{where}: pair",
        expected=expected,
        found=f"{found}",
        remedy="Give each unsafe prompt and its safe rewrite the same `pair`; or name train.sites, choose "
        "select.method 'score', set adapt.on to false.",
    )
