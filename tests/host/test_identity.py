"""Where nothing should act no bit changes; whatever goes wrong, the next run is as if nothing had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch

from steerdit.host.attach import attach
from steerdit.steering import Entry, Schedule, Site, SteeringError, Step

from .steered import blended, repelled
from .synthetic import NEVER, bundle
from .tiny import prompt, sample, tiny

FAMILIES = ("flux", "sd3")
NODES = {"repel": repelled, "blend": blended}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("gate", ["token", "image", "both", "always"])
@pytest.mark.parametrize("form", ["default", "paper"])
def test_strength_zero_changes_no_bit(family: str, node: str, gate: str, form: str, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    steered = NODES[node](model, bundle(tmp_path, family), strength=0.0, gate=gate, form=form)
    assert torch.equal(sample(steered, *prompts, cfg=3.0), sample(model, *prompts, cfg=3.0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    "nothing", [{"categories": "none"}, {"categories": "-all"}, {"sites": "-all"}], ids=str
)
def test_an_empty_selection_changes_no_bit(family: str, node: str, nothing: Any, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    steered = NODES[node](model, bundle(tmp_path, family), **nothing)
    assert torch.equal(sample(steered, *prompts, cfg=3.0), sample(model, *prompts, cfg=3.0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("gate", ["token", "image", "both"])
@pytest.mark.parametrize("form", ["default", "paper"])
def test_a_closed_gate_changes_no_bit(family: str, node: str, gate: str, form: str, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    steered = NODES[node](model, bundle(tmp_path, family, categories={"never": NEVER}), gate=gate, form=form)
    assert torch.equal(sample(steered, *prompts, cfg=3.0), sample(model, *prompts, cfg=3.0))


class Fails:
    """A modifier that raises at its third visit, after it has changed what it could reach."""

    width = None

    def __init__(self, error: BaseException) -> None:
        self.error, self.visits = error, 0

    def __call__(self, tokens: torch.Tensor, step: Step) -> torch.Tensor:
        self.visits += 1
        if self.visits == 3:
            raise self.error
        return tokens + 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), comfy.model_management.InterruptProcessingException()], ids=repr
)
def test_after_a_failure_in_a_block_the_model_is_clean(family: str, error: Exception, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    before = sample(model, *prompts, cfg=3.0)
    site = Site.parse({"flux": "single.0.image", "sd3": "joint.1.image"}[family])
    steered = attach(model, [Entry(site, Fails(error))])
    with pytest.raises(type(error)):
        sample(steered, *prompts, cfg=3.0)
    assert torch.equal(sample(model, *prompts, cfg=3.0), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_an_interrupt_the_model_is_clean(family: str, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    before = sample(model, *prompts, cfg=3.0)
    steered = repelled(model, bundle(tmp_path, family))
    unbroken = sample(steered, *prompts, cfg=3.0)

    def interrupt(step: int, *_: Any) -> None:
        comfy.model_management.interrupt_current_processing(step == 1)
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(steered, *prompts, cfg=3.0, callback=interrupt)
    assert torch.equal(sample(model, *prompts, cfg=3.0), before)
    assert torch.equal(sample(steered, *prompts, cfg=3.0), unbroken)


@pytest.mark.parametrize("family", FAMILIES)
def test_clones_do_not_see_each_other(family: str, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    plain = sample(model, *prompts)
    one = repelled(model, bundle(tmp_path, family), strength=0.5)
    first = sample(one, *prompts)
    two = blended(one, bundle(tmp_path, family, seed=12))
    clone = one.clone()
    second = sample(two, *prompts)
    assert not torch.equal(first, plain)
    assert not torch.equal(second, first)
    assert torch.equal(sample(one, *prompts), first)
    assert torch.equal(sample(clone, *prompts), first)
    assert torch.equal(sample(model, *prompts), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_schedule_without_a_step_changes_no_bit(family: str, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    steered = repelled(model, bundle(tmp_path, family), start_percent=0.05, end_percent=0.06)
    assert torch.equal(sample(steered, *prompts), sample(model, *prompts))
    with pytest.raises(SteeringError, match="start_percent"):
        Schedule(0.6, 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_caller_hands_over_is_not_written_to(family: str, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    steered = repelled(model, bundle(tmp_path, family), gate="always")
    options = steered.model_options["transformer_options"]
    keys, text = set(options), prompts[0][0][0].clone()
    sample(steered, *prompts, cfg=3.0)
    assert set(steered.model_options["transformer_options"]) == keys
    assert "patches_replace" not in steered.model_options["transformer_options"]
    assert torch.equal(prompts[0][0][0], text)
