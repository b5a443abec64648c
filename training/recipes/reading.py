"""Reads a recipe: every key checked by its name and line."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...steering.errors import SteeringError
from ...steering.formats.fields import LICENSE, Field
from ..adaptation.domains import LESSONS
from ..adaptation.domains import METHODS as ADAPTATIONS
from ..adaptation.terms import AdaptationConfig
from ..dictionaries.config import TrainingConfig, parse_toml, read_table
from ..gates.thresholds import GateRule
from ..recordings.manifest import DTYPES, LABELS
from ..routing.ranking import OPERATORS, Weights
from ..selection.choosing import METHODS, SelectionRule
from .recipe import (
    ALL,
    BOTH,
    CROSSING,
    QUANTILES,
    SELECTED,
    AdaptPart,
    BundlePart,
    GatesPart,
    MachinePart,
    ModelPart,
    PromptsPart,
    Recipe,
    RecordPart,
    RoutePart,
    TrainPart,
)

SECTIONS: Mapping[str, Mapping[str, type[Any]]] = {
    "model": {"model": ModelPart},
    "prompts": {"prompts": PromptsPart},
    "record": {"record": RecordPart},
    "route": {"route": RoutePart, "weights": Weights},
    "train": {"train": TrainPart, "training": TrainingConfig},
    "select": {"select": SelectionRule},
    "adapt": {"adapt": AdaptPart, "adaptation": AdaptationConfig},
    "gates": {"gates": GatesPart, "gate_rule": GateRule},
    "bundle": {"bundle": BundlePart},
    "machine": {"machine": MachinePart},
}
"""Section -> the fields of Recipe that its keys fill, with their types."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "record.dtype": tuple(DTYPES),
    "route.operator": (BOTH, *OPERATORS),
    "select.method": METHODS,
    "adapt.learn_from": LESSONS,
    "adapt.rows": (SELECTED, ALL),
    "adapt.method": ADAPTATIONS,
    "gates.thresholds": (QUANTILES, CROSSING),
    "machine.device": ("auto", "cpu", "cuda"),
}
LEAST: Mapping[str, float] = {
    **dict.fromkeys(("record.first_seed", "record.tokens_per_image", "record.cap", "record.guidance"), 0),
    **dict.fromkeys(("select.seed", "adapt.seed", "machine.threads", "select.least", "adapt.stability"), 0),
    **dict.fromkeys(("adapt.weight", "adapt.replay", "train.labels", "train.counterfactuals"), 0),
    **dict.fromkeys(("route.semantic", "route.binding", "route.stability", "route.cost"), 0),
    **dict.fromkeys(("prompts.held_out", "select.held_out"), 0.01),
    **dict.fromkeys(("gates.quantile", "adapt.rate"), 1e-6),
    **dict.fromkeys(("machine.tflops", "machine.tflops_float32", "machine.disk"), 1e-3),
    "route.pairs": 3,
    "gates.folds": 2,
}
"""The least a number may be; 1 where nothing is said."""
MOST: Mapping[str, float] = {
    **dict.fromkeys(("prompts.held_out", "select.held_out", "adapt.replay", "train.counterfactuals"), 0.9),
    **dict.fromkeys(("select.least", "gates.quantile", "adapt.rate"), 1),
}

WRONG = "Correct the value; docs/make-a-bundle.md says what each one may be."


def read_recipe(path: Path, changes: Mapping[str, str] = {}) -> Recipe:
    """A recipe from its file.

    Args:
        changes: `section.key` -> a TOML value that takes the place of the file's; a text may lack its quotes.

    Raises:
        SteeringError: names the file, the line and the key that cannot be.
    """
    said = read_table(path)
    text = path.read_text(encoding="utf-8-sig") if path.suffix.lower() != ".json" else ""
    tables = {name: _table(name, value, path, text) for name, value in said.items()}
    for name, value in changes.items():
        where = f"--set {name}"
        section, _, key = name.partition(".")
        _require_known(section, SECTIONS, where)
        _require_known(key, _keys(section), where)
        tables.setdefault(section, {})[key] = Field(
            where, "", _written(section, key, value, where), SteeringError, WRONG
        )
    parts: dict[str, Any] = {}
    for section, types in SECTIONS.items():
        table = tables.get(section, {})
        for part, kind in types.items():
            own = {field.name for field in dataclasses.fields(kind)}
            fields = {key: value for key, value in table.items() if key in own}
            _require_all(kind, fields, f"{path}: {section}")
            parts[part] = _made(str(path), section, kind, fields)
    recipe = Recipe(folder=path.absolute().parent, **parts)
    _check(recipe, str(path))
    return recipe


def _table(section: str, value: Any, path: Path, text: str) -> dict[str, Field]:
    where = f"{path}: {_line(text, section, None)}{section}"
    _require_known(section, SECTIONS, where)
    if not isinstance(value, dict):
        raise SteeringError(
            where, expected=f"a section [{section}]", found=repr(value), remedy="Write its keys below it."
        )
    known, fields = _keys(section), {}
    for key, member in value.items():
        at = f"{path}: {_line(text, section, key)}{section}.{key}"
        _require_known(key, known, at)
        fields[key] = Field(at, "", member, SteeringError, WRONG)
    return fields


def _keys(section: str) -> list[str]:
    return [field.name for kind in SECTIONS[section].values() for field in dataclasses.fields(kind)]


def _written(section: str, key: str, value: str, where: str) -> Any:
    fields = [field for kind in SECTIONS[section].values() for field in dataclasses.fields(kind)]
    default = next(field.default for field in fields if field.name == key)
    plain = default is dataclasses.MISSING or isinstance(default, str)
    if plain and value[:1] not in ("'", '"'):
        return value
    return parse_toml(f"x = {value}", where)["x"]


def _require_known(name: str, known: Any, where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise SteeringError(
            where,
            expected=f"only {', '.join(known)}",
            found=f"the unknown key {name!r}",
            remedy=f"Did you mean {near[0]!r}?" if near else "Remove it.",
        )


def _require_all(kind: type[Any], given: Mapping[str, Field], where: str) -> None:
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in given:
            raise SteeringError(
                where,
                expected=f"the key {field.name!r}",
                found=f"only {', '.join(given)}" if given else "nothing",
                remedy=f"Write `{field.name} = …` below the section.",
            )


def _line(text: str, section: str, key: str | None) -> str:
    """`line 12: ` of a section or a key in a TOML text, or nothing where it is written otherwise."""
    within = ""
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[\s*([\w.-]+)\s*\]", line)
        name = re.match(r"""\s*["']?([\w-]+)["']?\s*[.=]""", line)
        within = head[1] if head else within
        sought = head[1] if head and key is None else name[1] if name else ""
        if (sought == section and key is None and (head or not within)) or (
            sought == key and within == section and not head
        ):
            return f"line {number}: "
    return ""


def _made(file: str, section: str, kind: type[Any], fields: Mapping[str, Field]) -> Any:
    values: dict[str, Any] = {}
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for key, field in fields.items():
        if kind is TrainingConfig:
            values |= TrainingConfig.checked({key: field.value}, field.file.removesuffix(f".{key}"))
        else:
            values[key] = _value(f"{section}.{key}", defaults[key], field)
    try:
        return kind(**values)
    except SteeringError as reason:  # values that each may be, but not together
        raise SteeringError(
            f"{file}: [{section}], {reason.where}",
            expected=reason.expected,
            found=reason.found,
            remedy=reason.remedy,
        ) from reason


def _value(name: str, default: Any, field: Field) -> Any:
    if name in CHOICES:
        return field.one_of(CHOICES[name])
    if isinstance(default, bool):
        if not isinstance(field.value, bool):
            field.refuse("true or false")
        return field.value
    if isinstance(default, int):
        return field.integer(int(LEAST.get(name, 1)), 2**63 - 1)
    if isinstance(default, float):
        return field.number(LEAST.get(name, 1.0), MOST.get(name, 1e12))
    if isinstance(default, tuple):
        texts = tuple(item.text() for item in field.items())
        if name == "train.labels" and not set(texts) <= set(LABELS):
            field.refuse(f"some of {', '.join(LABELS)}")
        return texts
    return "" if field.value == "" and default == "" else field.text(longest=20_000)


def _check(recipe: Recipe, file: str) -> None:
    """What no key can be asked alone."""
    model = recipe.model
    whole, parts = bool(model.checkpoint), bool(model.diffusion_model)
    encoders = bool(model.text_encoders) + bool(model.own_text_encoder)
    if whole == parts or encoders != int(parts):
        raise SteeringError(
            f"{file}: model",
            expected="a checkpoint alone, or a diffusion_model and its text_encoders",
            found="both or neither" if whole == parts else "text encoders without need, twice, or none",
            remedy='For example diffusion_model = "flux1-dev.safetensors" and text_encoders = '
            '["clip_l.safetensors", "t5xxl_fp16.safetensors"].',
        )
    if not LICENSE.fullmatch(recipe.bundle.license):
        raise SteeringError(
            f"{file}: bundle.license",
            expected="an SPDX licence expression, such as Apache-2.0",
            found=repr(recipe.bundle.license),
            remedy="Choose one.",
        )
    if recipe.path(recipe.bundle.file).suffix != ".safetensors":
        raise SteeringError(
            f"{file}: bundle.file",
            expected="a file ending in .safetensors",
            found=repr(recipe.bundle.file),
            remedy="Rename it.",
        )
