"""Restrict Flow through whole runs: samplers, parts of a run, cancelling, precisions; and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import pytest
import torch
from torch import Tensor

from steerdit.nodes.flow_mask import FlowMaskNode

from . import slots
from .anchors import anchors
from .flows import FAMILIES, GRID, Visit, Watcher, model_of, prompt, sample, start, with_flow
from .test_flow_attention import edited
from .test_flow_restrict import MASK, OTHER, SEEDS, expected_of, prompts, refusal, restricted, weights_of
from .test_host_nodes import Node, easy_cache, shifted, skip_layers

SEVERAL_CALLS_A_STEP = ("heun", "dpm_2", "res_multistep", "euler_ancestral", "dpmpp_2s_ancestral", "uni_pc")


def found_in(family: str, model: Any, folder: Path, **changes: Any) -> Any:
    """The MODEL that restricts what anchors find, with noise."""
    file = anchors(folder, family, seed=SEEDS.get(family, 13))
    return restricted(model, file, **{"noise": 0.5, **changes})


@pytest.mark.parametrize("sampler", SEVERAL_CALLS_A_STEP)
def test_every_sampler(sampler: str, tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux", 2)
    asked: dict[str, Any] = {"cfg": 3.0, "steps": 3, "sampler": sampler}
    plain = sample(model, *prompts("flux"), noise, **asked)
    never = restricted(model, anchors(tmp_path, "flux", threshold=1e9, name="never"), noise=0.999)
    assert torch.equal(sample(never, *prompts("flux"), noise, **asked), plain)
    acts = found_in("flux", model, tmp_path)
    found = sample(acts, *prompts("flux"), noise, **asked)
    assert torch.equal(sample(acts, *prompts("flux"), noise, **asked), found)
    assert not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(sample(model, *prompts("flux"), noise, **asked), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_without_a_mark_keeps_its_bits_beside_one_that_has_some(
    family: str, tmp_path: Path
) -> None:
    model, noise = model_of(family, tmp_path), start(family, 2)
    plain = sample(model, *prompts(family), noise, cfg=3.0)
    found = sample(
        restricted(model, mask=torch.cat([MASK, 0 * MASK]), noise=0.9), *prompts(family), noise, cfg=3.0
    )
    assert torch.equal(found[1], plain[1])
    assert not torch.allclose(found[0], plain[0], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cancelled_run_leaves_nothing_behind(family: str, tmp_path: Path) -> None:
    model, noise = model_of(family, tmp_path), start(family)
    plain = sample(model, *prompts(family), noise, cfg=3.0)
    both = restricted(found_in(family, model, tmp_path), mask=MASK).clone()
    calls: list[int] = []

    def stopping(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 3:
            raise comfy.model_management.InterruptProcessingException
        return extra["original_block"](args)

    both.set_model_patch_replace(stopping, "dit", "double_block", 1)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(both, *prompts(family), noise, cfg=3.0)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.model.modules())
    assert torch.equal(sample(model, *prompts(family), noise, cfg=3.0), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["renormalised", "unrenormalised"])
def test_models_of_half_precision(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, watcher = model_of("flux", tmp_path), Watcher()
    model.model.diffusion_model.to(dtype)
    model.model.diffusion_model.dtype = dtype
    model.model.model_config.unet_config["dtype"] = dtype
    masks = torch.cat([MASK, OTHER])
    steered = restricted(model, mask=masks.to(dtype), form=form)
    found = sample(with_flow(steered, watcher), *prompts("flux"), start("flux", 2), steps=1)
    assert bool(found.isfinite().all())
    for visit in watcher.visits:
        assert visit.out.dtype == visit.q.dtype == dtype
        for row, mask in enumerate(masks):
            own = Visit(*(x[row : row + 1] for x in visit[:3]), visit.step, visit.out[row : row + 1])
            expected = expected_of(own, mask > 0.5, "content", form)
            off = (own.out.double() - expected).norm() / expected.norm()
            assert off < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_masks_of_any_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    expected = sample(restricted(model, mask=MASK), *prompts("flux"), noise, steps=1)
    found = sample(restricted(model, mask=MASK.to(dtype)), *prompts("flux"), noise, steps=1)
    assert torch.equal(found, expected)


def test_a_mask_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    mask = MASK.clone()
    mask[0, 0, 0] = torch.nan
    assert "NaN" in refusal(lambda: restricted(model_of("flux", tmp_path), mask=mask))


@pytest.mark.parametrize("changes", [
    {"core": 0.0, "ring": 0.0, "safe": 0.0}, {"core": 0.0, "safe": 0.0, "form": "unrenormalised"},
    {"task": "both", "core": 0.0, "ring": 0.0}, {"task": "editing", "core": 0.0, "ring": 0.0},
])  # fmt: skip
def test_a_mask_that_marks_everything_gives_numbers(changes: dict[str, Any], tmp_path: Path) -> None:
    steered = restricted(model_of("flux", tmp_path), mask=torch.ones(1, *GRID), **changes)
    found = sample(steered, edited("flux", "index"), prompt("flux", 2), start("flux"), cfg=3.0)
    assert bool(found.isfinite().all())


def part(model: Any, noise: Tensor, first: int, last: int, denoise: float = 1.0) -> Tensor:
    """Some of four steps, as KSampler Advanced takes them."""
    return comfy.sample.sample(
        model, noise, 4, 1.0, "euler", "simple", *prompts("flux"), torch.zeros_like(noise), denoise=denoise,
        start_step=first, last_step=last, seed=5, disable_pbar=True,
    )  # fmt: skip


@pytest.mark.parametrize(("first", "last", "denoise"), [(2, 4, 1.0), (0, 4, 0.4)])
@pytest.mark.parametrize("by", ["anchors", "mask"])
def test_a_run_that_never_looks_says_so(
    by: str, first: int, last: int, denoise: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    steered = (
        found_in("flux", model, tmp_path, startup_percent=0.3)
        if by == "anchors"
        else restricted(model, mask=MASK, end_percent=0.3)
    )
    assert not torch.equal(part(steered, noise, 0, 2), part(model, noise, 0, 2))
    assert "looked at no picture" not in caplog.text
    assert torch.equal(part(steered, noise, first, last, denoise), part(model, noise, first, last, denoise))
    assert "looked at no picture" in caplog.text
    assert {"anchors": "startup_percent, 0.3", "mask": "end_percent, 0.3"}[by] in caplog.text


def test_beside_another_that_acts_it_is_told_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of("flux", tmp_path)
    both = found_in("flux", restricted(model, mask=MASK), tmp_path, startup_percent=0.3, end_percent=0.3)
    part(both, start("flux"), 2, 4)
    assert "looked at no picture" in caplog.text


def test_a_run_that_looks_and_finds_nothing_is_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    never = restricted(model_of("flux", tmp_path), anchors(tmp_path, "flux", threshold=1e9))
    part(never, start("flux"), 0, 4)
    assert "SteerDiT" not in caplog.text


def test_a_threshold_that_marks_everything_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = found_in("flux", model_of("flux", tmp_path), tmp_path, threshold="given", threshold_value=-1e6)
    sample(model, *prompts("flux"), start("flux", 2), cfg=3.0, steps=4)
    assert len([one for one in caplog.messages if "The whole picture is marked" in one]) == 1


@pytest.mark.parametrize("tasks", [("editing", "editing"), ("generation", "editing"), ("both", "generation")])
@pytest.mark.parametrize("form", ["renormalised", "unrenormalised"])
def test_weights_of_stacked_nodes_multiply(tasks: tuple[str, str], form: str, tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    flows = [{"generation": "content", "editing": "reference", "both": "both"}[task] for task in tasks]
    for masks, order in (((MASK, OTHER), (0, 1)), ((MASK, OTHER), (1, 0)), ((MASK, MASK), (0, 1))):
        watcher, steered = Watcher(), model
        for number in order:
            steered = restricted(steered, mask=masks[number], task=tasks[number], form=form)
        sample(with_flow(steered, watcher), edited("flux", "index"), prompt("flux", 2), noise, steps=1)
        assert len(watcher.visits) == 4
        for visit in watcher.visits:
            logits = visit.q.double() @ visit.k.double().mT / visit.q.shape[-1] ** 0.5
            shares = logits.softmax(-1)
            for mask, flow in zip(masks, flows):
                shares = shares * weights_of(visit.step.layout, mask[0] > 0.5, flow, (0.2, 0.4, 1.05))
            if form == "renormalised":
                shares = shares / shares.sum(-1, keepdim=True)
            expected = (shares @ visit.v.double()).transpose(1, 2).flatten(2)
            assert torch.allclose(visit.out.double(), expected, atol=1e-5)


@pytest.mark.parametrize("node", [easy_cache, skip_layers, shifted])
def test_beside_the_hosts_own_nodes_in_any_order(node: Node, tmp_path: Path) -> None:
    model, noise, run = model_of("flux", tmp_path), start("flux", 2), {"cfg": 3.0, "steps": 6}
    pair = prompt("flux", 1), prompt("flux", 2)
    plain = sample(node(model), *pair, noise, **run)
    never = anchors(tmp_path, "flux", threshold=1e9, name="never")
    assert torch.equal(sample(node(restricted(model, never)), *pair, noise, **run), plain)
    assert torch.equal(sample(restricted(node(model), never), *pair, noise, **run), plain)
    one = sample(node(restricted(model, mask=MASK, noise=0.5)), *pair, noise, **run)
    assert torch.equal(sample(restricted(node(model), mask=MASK, noise=0.5), *pair, noise, **run), one)
    assert not torch.allclose(one, plain, atol=1e-3)


def test_the_mask_lies_on_a_picture_that_ends_within_its_last_patches(tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux", 1, (17, 21))
    marked = torch.zeros(1, 136, 168)
    marked[0, 16 * 8 :, 16 * 3 : 16 * 5] = 1
    found = sample(restricted(model, mask=marked), *prompts("flux"), noise)
    mask, overlay, *_ = FlowMaskNode.execute(
        samples={"samples": found}, image=torch.zeros(1, 136, 168, 3)
    ).args
    assert torch.equal(mask, marked)
    assert overlay.shape == (1, 136, 168, 3)


@pytest.mark.parametrize("family", ["flux2", "z_image", "lumina2", "hunyuan_video", "wan", "ltx"])
def test_other_families_are_refused_by_name(family: str) -> None:
    model = slots.tiny_model(family)
    kind = type(model.model.diffusion_model).__name__
    assert {"flux2": "FLUX.2"}.get(family, kind) in refusal(lambda: restricted(model, mask=MASK))


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_of_videos_are_refused(family: str, tmp_path: Path) -> None:
    steered = restricted(model_of(family, tmp_path), mask=MASK)
    noise = torch.randn(1, 16, 2, 5, 9)
    assert "LATENT" in refusal(lambda: sample(steered, *prompts(family), noise))
