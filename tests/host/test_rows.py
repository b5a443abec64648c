"""What makes the picture is steered and the negative is not, however the conditionings reach the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import pytest
import torch
from torch import Tensor

from steerdit.host.attach import attach
from steerdit.host.recording import Recorder
from steerdit.nodes.report import ReportNode
from steerdit.steering import Entry, Site, SteeringError

from .steered import repelled
from .synthetic import bundle
from .tiny import noise, prompt, sample, tiny

POSITIVE, NEGATIVE, OTHER = (prompt("flux", seed) for seed in (1, 2, 3))
EULER = comfy.samplers.sampler_object("euler")


def within(conditioning: Any, **values: Any) -> Any:
    """A conditioning with an area, a time range or the like."""
    return [[text, {**extra, **values}] for text, extra in conditioning]


def times_seen(recorder: Recorder, conditioning: Any) -> int:
    return sum(torch.equal(record.tokens, conditioning[0][0][0]) for record in recorder.records)


def watched(folder: Path) -> tuple[Any, Recorder]:
    recorder = Recorder()
    return attach(tiny("flux", folder), [Entry(Site("text"), recorder)]), recorder


def through(wrapper: Callable[..., Tensor], folder: Path) -> Any:
    """A steered MODEL whose calls go through another pack's function."""
    model = repelled(tiny("flux", folder), bundle(folder, "flux"), gate="always")
    model.set_model_unet_function_wrapper(wrapper)
    return model


def test_an_area_of_the_negative_leaves_no_part_of_the_positive_out(tmp_path: Path) -> None:
    model, recorder = watched(tmp_path)
    sample(model, POSITIVE, within(NEGATIVE, area=(4, 6, 0, 0), strength=1.0), cfg=3.0, steps=1)
    assert (times_seen(recorder, POSITIVE), times_seen(recorder, NEGATIVE)) == (2, 0)


def test_an_area_of_the_positive_does_not_steer_the_negative(tmp_path: Path) -> None:
    model, recorder = watched(tmp_path)
    sample(model, within(POSITIVE, area=(4, 6, 0, 0), strength=1.0) + OTHER, NEGATIVE, cfg=3.0, steps=1)
    seen = [times_seen(recorder, one) for one in (POSITIVE, OTHER, NEGATIVE)]
    assert seen == [1, 1, 0]


@pytest.mark.parametrize(
    ("cfg", "steered"), [(0.0, True), (0.5, True), (-2.0, True), (1.0, False), (3.0, False)]
)
def test_a_negative_that_adds_to_the_picture_is_steered(cfg: float, steered: bool, tmp_path: Path) -> None:
    model, recorder = watched(tmp_path)
    sample(model, POSITIVE, NEGATIVE, cfg=cfg, steps=1)
    assert times_seen(recorder, POSITIVE) == 1
    assert times_seen(recorder, NEGATIVE) == steered


@pytest.mark.parametrize(("scale", "steered"), [(2.0, False), (0.0, True)])
def test_the_dual_guiders_negative(scale: float, steered: bool, tmp_path: Path) -> None:
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    model, recorder = watched(tmp_path)
    guider = Guider_DualCFG(model)
    guider.set_conds(POSITIVE, OTHER, NEGATIVE)
    guider.set_cfg(3.0, scale)
    guider.sample(noise(), torch.zeros_like(noise()), EULER, torch.tensor([1.0, 0.0]))
    assert [times_seen(recorder, one) for one in (POSITIVE, OTHER, NEGATIVE)] == [1, 1, steered]


def test_the_perpendicular_guiders_negatives_are_not_steered(tmp_path: Path) -> None:
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    model, recorder = watched(tmp_path)
    guider = Guider_PerpNeg(model)
    guider.set_conds(POSITIVE, NEGATIVE, OTHER)
    guider.set_cfg(3.0, 1.0)
    guider.sample(noise(), torch.zeros_like(noise()), EULER, torch.tensor([1.0, 0.0]))
    assert [times_seen(recorder, one) for one in (POSITIVE, OTHER, NEGATIVE)] == [1, 0, 0]


def test_guidance_that_another_node_lowers_for_some_steps(tmp_path: Path) -> None:
    model, recorder = watched(tmp_path)

    def lowered(executor: Any, x: Tensor, timestep: Tensor, *rest: Any) -> Tensor:
        guider = executor.class_obj
        guider.cfg = 0.0 if float(timestep[0]) < 0.7 else 3.0
        return executor(x, timestep, *rest)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "lowers", lowered)
    sample(model, POSITIVE, NEGATIVE, cfg=3.0, steps=3)
    assert (times_seen(recorder, POSITIVE), times_seen(recorder, NEGATIVE)) == (3, 2)


@pytest.mark.parametrize("area", [{}, {"area": (4, 6, 0, 0), "strength": 1.0}])
def test_a_negative_on_another_model_is_not_steered(area: dict[str, Any], tmp_path: Path) -> None:
    custom_sampler = pytest.importorskip("comfy_extras.nodes_custom_sampler")
    if not hasattr(custom_sampler, "Guider_DualModel"):
        pytest.skip("this host has no guider for two models")
    model, recorder = watched(tmp_path)
    guider = custom_sampler.Guider_DualModel(model, tiny("flux", tmp_path, seed=1))
    guider.set_conds(POSITIVE, within(NEGATIVE, **area))
    guider.set_cfg(3.0)
    guider.sample(noise(), torch.zeros_like(noise()), EULER, torch.tensor([1.0, 0.0]))
    assert times_seen(recorder, POSITIVE) == 1 + bool(area)
    assert times_seen(recorder, NEGATIVE) == 0


def cut_up(apply: Any, args: dict[str, Any]) -> Tensor:
    """Another pack's way to save memory: the conditionings of a call one after another."""
    x, rows = args["input"], len(args["input"]) // len(args["cond_or_uncond"])

    def part(value: Any, at: int) -> Any:
        is_batch = isinstance(value, Tensor) and len(value) == len(x)
        return value[at : at + rows] if is_batch else value

    calls = [
        apply(part(x, at), part(args["timestep"], at), **{k: part(v, at) for k, v in args["c"].items()})
        for at in range(0, len(x), rows)
    ]
    return torch.cat(calls)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_call_that_another_pack_cuts_up_is_refused(batch: int, tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match=f"expected calls with {2 * batch} rows.*found {batch}"):
        sample(through(cut_up, tmp_path), POSITIVE, NEGATIVE, cfg=3.0, start=noise(batch))


def test_where_all_is_steered_a_call_may_be_cut_up(tmp_path: Path) -> None:
    whole = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"), gate="always")
    expected = sample(whole, POSITIVE + OTHER, NEGATIVE, start=noise(2))
    found = sample(through(cut_up, tmp_path), POSITIVE + OTHER, NEGATIVE, start=noise(2))
    assert torch.allclose(found, expected, atol=1e-5)


def test_rows_that_another_pack_adds_inside_the_model_are_refused(tmp_path: Path) -> None:
    def doubled(
        executor: Any, x: Tensor, t: Tensor, context: Tensor, y: Tensor, *rest: Any, **kwargs: Any
    ) -> Any:
        twice = (torch.cat([tensor, tensor]) for tensor in (x, t, context, y))
        return executor(*twice, *rest, **kwargs)[: len(x)]

    model = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"))
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "doubles", doubled)
    with pytest.raises(SteeringError, match=r"double\.0\.text: expected 2 rows.*found 4"):
        sample(model, POSITIVE, NEGATIVE, cfg=3.0)


@pytest.mark.parametrize(
    ("kept", "told"),
    [((), "run whose calls never did"), (("wrappers", "cond_or_uncond", "uuids"), "options without it")],
)
def test_options_that_another_pack_drops_are_refused(
    kept: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    def dropping(apply: Any, args: dict[str, Any]) -> Tensor:
        options = args["c"]["transformer_options"]
        few = {key: options[key] for key in kept}
        return apply(args["input"], args["timestep"], **{**args["c"], "transformer_options": few})

    with pytest.raises(SteeringError, match=told):
        sample(through(dropping, tmp_path), POSITIVE, NEGATIVE, cfg=3.0)


def test_options_that_another_pack_copies_belong_to_the_same_run(tmp_path: Path) -> None:
    def copying(apply: Any, args: dict[str, Any]) -> Tensor:
        return apply(args["input"], args["timestep"], **copy.deepcopy(args["c"]))

    latent = sample(through(copying, tmp_path), POSITIVE, NEGATIVE, cfg=3.0, start=noise(1, seed=77))
    table, *_ = ReportNode.execute(samples={"samples": latent}).args
    assert "nothing was watched" not in table


def test_a_run_in_which_nothing_was_due_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux")
    sample(repelled(model, file), POSITIVE, NEGATIVE)
    assert "nothing was steered" not in caplog.text
    sample(repelled(model, file, start_percent=0.05, end_percent=0.06), POSITIVE, NEGATIVE)
    assert "nothing was steered" in caplog.text


def test_clones_share_a_plan_and_its_weights(tmp_path: Path) -> None:
    model = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"))
    plans = [one.model_options["transformer_options"]["steerdit_plan"] for one in (model, model.clone())]
    assert plans[0] is plans[1]
