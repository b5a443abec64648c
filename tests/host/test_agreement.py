"""Steered pictures equal an independent float64 account of them to 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from .reference import Edit, Reference, relative
from .steered import blended, repelled
from .synthetic import bundle
from .tiny import noise, prompt, sample, sigmas, tiny

FAMILIES = ("flux", "sd3")


def through_node(model: Any, edit: Edit, **schedule: float) -> Any:
    """The MODEL that the node of an edit gives."""
    return {"repel": repelled, "blend": blended}[edit.method](
        model,
        edit.bundle,
        strength=edit.strength,
        categories=", ".join(edit.categories),
        sites="default" if edit.sites is None else ", ".join(edit.sites),
        gate=edit.gate,
        keep_norm=edit.keep_norm,
        form=edit.form,
        **schedule,
    )


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
def test_however_the_host_calls_the_model(
    family: str, method: str, run: dict[str, Any], tmp_path: Path
) -> None:
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.3, 1.0), (0.0, 0.1)])
def test_a_schedule_is_a_range_of_noise_levels(family: str, start: float, end: float, tmp_path: Path) -> None:
    model = tiny(family, tmp_path)
    edit = Edit(bundle(tmp_path, family))
    sampling = model.get_model_object("model_sampling")
    gap = (
        sampling.percent_to_sigma(start) if start else 2.0,
        sampling.percent_to_sigma(end) if end < 1 else -1.0,
    )
    levels = sigmas(model, 3)[:3]
    assert 0 < sum(gap[0] >= sigma > gap[1] for sigma in levels) < 3
    steered = through_node(model, edit, start_percent=start, end_percent=end)
    for sampler in ("euler", "heun"):
        found = sample(steered, prompt(family, 1), prompt(family, 2), cfg=3.0, sampler=sampler)
        expected = Reference(family, model, [edit], gap).sample(
            noise(), prompt(family, 1), prompt(family, 2), model, cfg=3.0, sampler=sampler
        )
        assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("stream", ["image", "reference"])
def test_reference_tokens_are_a_stream_of_their_own(stream: str, tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    reference = {"reference_latents": [torch.randn(1, 16, 6, 4, generator=torch.Generator().manual_seed(3))]}
    positive, negative = prompt("flux", 1, **reference), prompt("flux", 2, **reference)
    sites = (f"double.1.{stream}", f"single.0.{stream}")
    edit = Edit(bundle(tmp_path, "flux", sites), gate="always")
    found = sample(through_node(model, edit), positive, negative, cfg=3.0)
    expected = Reference("flux", model, [edit]).sample(
        noise(), positive, negative, model, cfg=3.0, sampler="euler"
    )
    assert relative(found, expected) < 1e-5
    assert relative(sample(model, positive, negative, cfg=3.0), expected) > 1e-3


def test_a_reference_site_without_references_changes_nothing(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    steered = repelled(model, bundle(tmp_path, "flux", ("double.1.reference",)), gate="image")
    prompts = prompt("flux", 1), prompt("flux", 2)
    assert torch.equal(sample(steered, *prompts), sample(model, *prompts))


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_latent_sizes_are_padded_as_the_host_pads_them(family: str, tmp_path: Path) -> None:
    model = tiny(family, tmp_path)
    start = torch.randn(1, 16, 7, 11, generator=torch.Generator().manual_seed(3))
    edit = Edit(bundle(tmp_path, family))
    run = {"cfg": 1.0, "sampler": "euler"}
    found = sample(through_node(model, edit), prompt(family, 1), prompt(family, 2), start=start, **run)
    expected = Reference(family, model, [edit]).sample(
        start, prompt(family, 1), prompt(family, 2), model, **run
    )
    assert relative(found, expected) < 1e-5
