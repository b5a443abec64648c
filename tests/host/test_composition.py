"""SteerDiT beside other packs: in any order, both act; what is not reached is refused, never silently unguarded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch import Tensor

from steerdit.host.attach import attach
from steerdit.host.recording import Recorder
from steerdit.host.run import find_logs
from steerdit.steering import Entry, Site, SteeringError
from steerdit.steering.sae import SelectedLatents

from .reference import Edit, Reference, relative
from .steered import blended, repelled
from .synthetic import bundle
from .tiny import noise, prompt, sample, tiny

FAMILIES = ("flux", "sd3")
NODES = {"repel": repelled, "blend": blended}
BLOCK = {"flux": ("double_block", 1, "double.1"), "sd3": ("double_block", 1, "joint.1")}


def brighter(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Another pack's block replacement."""
    out = extra["original_block"](args)
    return {**out, "img": out["img"] * 1.1}


def sharper(func: Any, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Another pack's attention override."""
    return func(q * 1.2, *args, **kwargs)


def with_both(family: str, model: Any) -> Any:
    model = model.clone()
    model.set_model_patch_replace(brighter, "dit", *BLOCK[family][:2])
    model.model_options["transformer_options"]["optimized_attention_override"] = sharper
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", NODES)
@pytest.mark.parametrize("ours_first", [True, False])
def test_another_packs_patches_act_too(family: str, method: str, ours_first: bool, tmp_path: Path) -> None:
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    edit, through_node = Edit(bundle(tmp_path, family), method), NODES[method]
    if ours_first:
        steered = with_both(family, through_node(model, edit.bundle))
    else:
        steered = through_node(with_both(family, model), edit.bundle)
    options = {"optimized_attention_override": sharper}
    foreign = (BLOCK[family][2], 1.1)

    def account(edits: list[Edit], **others: Any) -> Tensor:
        return Reference(family, model, edits, **others).sample(
            noise(), *prompts, model, cfg=3.0, sampler="euler"
        )

    expected = account([edit], foreign=foreign, options=options)
    assert relative(sample(steered, *prompts, cfg=3.0), expected) < 1e-5
    for without in (
        account([], foreign=foreign, options=options),
        account([edit], options=options),
        account([edit], foreign=foreign),
    ):
        assert relative(without, expected) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", NODES)
def test_a_lora_on_the_model_is_kept(family: str, method: str, tmp_path: Path) -> None:
    key = {"flux": "double_blocks.1.img_mlp.2.weight", "sd3": "joint_blocks.1.x_block.mlp.fc2.weight"}[family]
    model, merged, prompts = (
        tiny(family, tmp_path),
        tiny(family, tmp_path),
        (prompt(family, 1), prompt(family, 2)),
    )
    weight = merged.model.diffusion_model.get_parameter(key)
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) / 30
    weight += change
    patched = model.clone()
    assert patched.add_patches({f"diffusion_model.{key}": ("diff", (change,))})
    edit, through_node = Edit(bundle(tmp_path, family), method), NODES[method]
    found = sample(through_node(patched, edit.bundle), *prompts)
    expected = Reference(family, merged, [edit]).sample(noise(), *prompts, model, cfg=1.0, sampler="euler")
    assert relative(found, expected) < 1e-5
    assert relative(sample(through_node(model, edit.bundle), *prompts), expected) > 1e-4


@pytest.mark.parametrize("method", NODES)
@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_compiled_model_is_steered_all_the_same(method: str, compiled_first: bool, tmp_path: Path) -> None:
    model, prompts = tiny("flux", tmp_path), (prompt("flux", 1), prompt("flux", 2))
    file, through_node = bundle(tmp_path, "flux"), NODES[method]
    plain, expected = sample(model, *prompts, steps=2), sample(through_node(model, file), *prompts, steps=2)

    def compiled(model: Any) -> Any:
        model = model.clone()
        set_torch_compile_wrapper(model=model, backend="eager")
        return model

    fast = compiled(model)
    assert relative(sample(fast, *prompts, steps=2), plain) < 1e-5
    steered = through_node(fast, file) if compiled_first else compiled(through_node(model, file))
    assert relative(sample(steered, *prompts, steps=2), expected) < 1e-5
    assert relative(sample(fast, *prompts, steps=2), plain) < 1e-5


def test_every_conditioning_area_is_steered(tmp_path: Path) -> None:
    recorder = Recorder()
    model = attach(tiny("flux", tmp_path), [Entry(Site.parse("single.0.image"), recorder)])
    sample(model, prompt("flux", 1) + prompt("flux", 4), prompt("flux", 2), cfg=3.0, steps=1, start=noise(2))
    assert sorted(record.image for record in recorder.records) == [0, 0, 1, 1]


def skips(calls: Callable[[int], bool]) -> Any:
    """A caching node that answers some calls with the last result."""
    last: list[Any] = [0, None]

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        last[0] += 1
        if last[1] is None or not calls(last[0]):
            last[1] = executor(*args, **kwargs)
        return last[1]

    return wrapper


def test_a_caching_node_may_skip_steps_but_not_all_of_a_site(tmp_path: Path) -> None:
    prompts = prompt("flux", 1), prompt("flux", 2)
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    cached = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"))
    cached.add_wrapper_with_key(kind, "cache", skips(lambda call: call == 2))
    sample(cached, *prompts)
    late = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"), start_percent=0.5)
    late.add_wrapper_with_key(kind, "cache", skips(lambda call: call > 1))
    with pytest.raises(SteeringError, match=r"double\.1\.image.*never did"):
        sample(late, *prompts)


@pytest.mark.parametrize("references", [0, 1])
@pytest.mark.parametrize("stream", ["text", "image", "reference"])
def test_text_that_another_pack_adds_shifts_nothing_unseen(
    stream: str, references: int, tmp_path: Path
) -> None:
    def longer(executor: Any, x: Tensor, t: Tensor, context: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
        return executor(x, t, torch.cat([context, context[:, :3]], 1), *rest, **kwargs)

    latents = [torch.randn(1, 16, 6, 4)] * references
    extra = {"reference_latents": latents} if latents else {}
    recorder, single = Recorder(), tiny("flux", tmp_path)
    model = attach(single, [Entry(Site.parse(f"single.0.{stream}"), recorder)])
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "longer", longer)
    joint: list[Tensor] = []
    handle = single.model.diffusion_model.single_blocks[0].register_forward_hook(
        lambda *call: joint.append(call[-1][0].clone())
    )
    source = inspect.getsource(type(single.model.diffusion_model))
    is_new = "img_slice" in source  # older hosts do not say where the text ends
    refusal = pytest.raises(SteeringError, match="Another node changes how many tokens")
    try:
        with nullcontext() if is_new else refusal:
            sample(model, prompt("flux", 1, **extra), prompt("flux", 2), steps=1)
    finally:
        handle.remove()
    if not is_new:
        return
    spans = {"text": slice(0, 10), "image": slice(10, 34), "reference": slice(34, None)}
    seen = [record.tokens for record in recorder.records] or [joint[0][:0]]
    assert torch.equal(seen[0], joint[0][spans[stream]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("calls_heard", [0, 1])
def test_a_forward_pass_that_ignores_the_hooks_is_refused_at_once(
    family: str, calls_heard: int, tmp_path: Path
) -> None:
    model = tiny(family, tmp_path)
    dit = model.model.diffusion_model
    original = dit.forward
    calls: list[int] = []

    def deaf(*args: Any, **kwargs: Any) -> Any:
        return original(
            *args, **(kwargs if len(calls) < calls_heard else {**kwargs, "transformer_options": {}})
        )

    dit.forward = deaf
    steered = repelled(model, bundle(tmp_path, family))
    refusal = rf"0\.text.*call \(number {calls_heard + 1}\) in which the block ran without"
    with pytest.raises(SteeringError, match=refusal):
        sample(steered, prompt(family, 1), prompt(family, 2), callback=lambda step, *_: calls.append(step))
    assert len(calls) == calls_heard


def test_a_wrapper_that_drops_the_hooks_later_on_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def without(value: Any) -> Any:
        return {**value, "patches_replace": {}} if isinstance(value, dict) and len(calls) > 1 else value

    def deaf(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return executor(*map(without, args), **{name: without(value) for name, value in kwargs.items()})

    calls: list[int] = []
    model = tiny("flux", tmp_path)
    steered = repelled(model, bundle(tmp_path, "flux"))
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    steered.add_wrapper_with_key(kind, "other", deaf)
    with pytest.raises(SteeringError, match="the block ran without them"):
        sample(steered, prompt("flux", 1), prompt("flux", 2))
    assert len(calls) == 2
    assert not any(module._forward_pre_hooks for module in model.model.diffusion_model.modules())


def test_calls_that_an_earlier_answer_serves_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("flux", tmp_path)
    dit = model.model.diffusion_model
    original, answers = dit.forward, []

    def reusing(*args: Any, **kwargs: Any) -> Any:
        answers.append(answers[0] if answers else original(*args, **kwargs))
        return answers[0]

    dit.forward = reusing
    sample(repelled(model, bundle(tmp_path, "flux")), prompt("flux", 1), prompt("flux", 2))
    assert len(answers) == 3
    assert caplog.text.count("pass by the steered blocks") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_nan_stops_the_run_and_is_located(family: str, tmp_path: Path) -> None:
    model = tiny(family, tmp_path).clone()
    name, index, site = BLOCK[family]

    def broken(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"](args)
        img = out["img"].clone()
        img[:, 3, 5] = float("nan")
        return {**out, "img": img}

    model.set_model_patch_replace(broken, "dit", name, index)
    steered = repelled(model, bundle(tmp_path, family), strength=0.0)
    with pytest.raises(SteeringError, match=rf"{site}\.image at sigma 1: .*NaN"):
        sample(steered, prompt(family, 1), prompt(family, 2))


def test_rows_are_loaded_and_shared_by_the_host(tmp_path: Path) -> None:
    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux", ("double.1.image",))
    steered = blended(repelled(model, file), file)
    other = repelled(tiny("flux", tmp_path, seed=1), file)
    (mine,), (theirs,) = (one.get_additional_models_with_key("steerdit") for one in (steered, other))
    assert mine.model is theirs.model
    loaded: list[str] = []

    def look(*_: Any) -> None:
        loaded.extend(
            type(entry.model.model).__name__ for entry in comfy.model_management.current_loaded_models
        )

    sample(steered, prompt("flux", 1), prompt("flux", 2), steps=1, callback=look)
    assert SelectedLatents.__name__ in loaded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorder_sees_what_a_forward_hook_sees(family: str, tmp_path: Path) -> None:
    model = tiny(family, tmp_path)
    site = Site.parse({"flux": "double.1.image", "sd3": "joint.1.image"}[family])
    recorder = Recorder()
    prompts = prompt(family, 1), prompt(family, 2)
    recorded = sample(attach(model, [Entry(site, recorder)]), *prompts, cfg=3.0, start=noise(2), steps=2)
    assert torch.equal(recorded, sample(model, *prompts, cfg=3.0, start=noise(2), steps=2))

    seen: list[Tensor] = []
    block = getattr(model.model.diffusion_model, "double_blocks" if family == "flux" else "joint_blocks")[1]
    handle = block.register_forward_hook(
        lambda *call: seen.append(call[-1][0 if family == "flux" else 1].clone())
    )
    try:
        sample(model, *prompts, cfg=3.0, start=noise(2), steps=2)
    finally:
        handle.remove()
    positive_rows = [
        rows[image] if len(rows) == 2 else rows[2 + image] for rows in seen for image in range(2)
    ]
    assert [record.image for record in recorder.records] == [0, 1, 0, 1]
    assert {record.seed for record in recorder.records} == {5}
    for record, rows in zip(recorder.records, positive_rows, strict=True):
        assert torch.equal(record.tokens, rows)


def test_the_log_of_a_picture_is_found_by_its_latent(tmp_path: Path) -> None:
    steered = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"), strength=0.0)
    latent = sample(steered, prompt("flux", 1), prompt("flux", 2), cfg=3.0, start=noise(2))
    ((_, first),), ((log, second),) = find_logs(latent)
    assert (first, second) == (0, 1)
    (((same, at),),) = find_logs(latent[1:])
    assert same is log
    assert at == 1
    with pytest.raises(SteeringError, match="LATENT"):
        find_logs(latent + 1)
