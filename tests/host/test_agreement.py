"""Steered pictures equal an independent float64 account of them to 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerdit.nodes.steer import BlendNode, RepelNode

from .reference import Edit, Reference, relative
from .synthetic import bundle
from .tiny import noise, prompt, sample, tiny

FAMILIES = ("flux", "sd3")


def through_node(model: Any, edit: Edit, start: float = 0.0, end: float = 1.0) -> Any:
    """The MODEL that the node of an edit gives."""
    (steered,) = {"repel": RepelNode, "blend": BlendNode}[edit.method].execute(
        model=model,
        bundle=edit.bundle,
        strength=edit.strength,
        categories=", ".join(edit.categories),
        sites="default" if edit.sites is None else ", ".join(edit.sites),
        start_percent=start,
        end_percent=end,
        gate=edit.gate,
        keep_norm=edit.keep_norm,
        form=edit.form,
    ).args
    return steered


def check(
    family: str,
    model: Any,
    *edits: Edit,
    cfg: float = 1.0,
    sampler: str = "euler",
    batch: int = 1,
    negative_tokens: int | None = None,
) -> None:
    positive, negative = prompt(family, 1), prompt(family, 2, negative_tokens)
    steered = model
    for edit in edits:
        steered = through_node(steered, edit)
    run = {"cfg": cfg, "sampler": sampler}
    found = sample(steered, positive, negative, start=noise(batch), **run)
    expected = Reference(family, model, edits).sample(noise(batch), positive, negative, model, **run)
    assert relative(found, expected) < 1e-5
    plain = sample(model, positive, negative, start=noise(batch), **run)
    assert relative(plain, expected) > 1e-3, "the edit did nothing, so agreement would mean nothing"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "run",
    [
        {},
        {"cfg": 3.0},
        {"cfg": 3.0, "negative_tokens": 101},
        {"cfg": 3.0, "batch": 2},
        {"cfg": 3.0, "batch": 2, "negative_tokens": 101},
        {"cfg": 3.0, "sampler": "heun"},
    ],
    ids=["cfg1", "cfg3", "unequal prompts", "batch 2", "batch 2, unequal prompts", "heun"],
)
@pytest.mark.parametrize("method", ["repel", "blend"])
def test_however_the_host_calls_the_model(family: str, method: str, run: dict[str, Any], tmp_path: Path) -> None:
    check(family, tiny(family, tmp_path), Edit(bundle(tmp_path, family), method), **run)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["repel", "blend"])
@pytest.mark.parametrize(
    "change",
    [
        {"gate": "always"},
        {"gate": "image"},
        {"keep_norm": False},
        {"form": "paper", "strength": 0.2},
        {"form": "paper", "strength": 0.2, "gate": "image"},
        {"categories": ("bloody",), "strength": 0.5},
    ],
    ids=str,
)
def test_every_option(family: str, method: str, change: dict[str, Any], tmp_path: Path) -> None:
    check(family, tiny(family, tmp_path), Edit(bundle(tmp_path, family), method, **change), cfg=3.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["repel", "blend"])
@pytest.mark.parametrize("activation", ["relu", "topk"])
@pytest.mark.parametrize("form", ["default", "paper"])
def test_every_activation(family: str, method: str, activation: str, form: str, tmp_path: Path) -> None:
    edit = Edit(bundle(tmp_path, family, activation=activation), method, form=form, strength=0.3)
    check(family, tiny(family, tmp_path), edit)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_nodes_in_either_order(family: str, order: tuple[int, int], tmp_path: Path) -> None:
    edits = (
        Edit(bundle(tmp_path, family), "repel"),
        Edit(bundle(tmp_path, family, seed=12), "blend", gate="always"),
    )
    check(family, tiny(family, tmp_path), *(edits[at] for at in order), cfg=3.0)
