"""Where attention is reached: every family's tokens are where the layout says, rows and masks are the right ones, and
who changes nothing leaves every bit as it was.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerdit.steering import Entry, Site, SteeringError
from steerdit.steering.flow.step import Attend, FlowStep

from .flows import (
    FAMILIES,
    GRID,
    HEADS,
    REFERENCE_METHODS,
    TEXT,
    Watcher,
    attention_sites,
    dense,
    model_of,
    prompt,
    reference,
    sample,
    start,
    with_flow,
)

REFERENCED = [(family, method) for family, methods in REFERENCE_METHODS.items() for method in methods]
SIZES = ((6, 4), (3, 7))
"""Of two reference latents; the second is padded."""
GRIDS = ((3, 2), (2, 4))


def edited(family: str, method: str, **changed: Tensor) -> Any:
    """A CONDITIONING with two reference latents."""
    latents = [reference(family, *size, seed) for size, seed in zip(SIZES, (21, 22))]
    for place, latent in changed.items():
        latents[int(place[-1])] = latent
    return prompt(family, 1, reference_latents=latents, reference_latents_method=method)


def keys(family: str, folder: Path, positive: Any, noise: Tensor) -> tuple[Tensor, FlowStep]:
    """The keys of the first block of one call, which depend on each token alone, and where they should lie."""
    model, watcher = model_of(family, folder), Watcher()
    first = attention_sites(model)[0]
    sample(with_flow(model, watcher, [first]), positive, prompt(family, 2), noise, steps=1)
    (visit,) = watcher.visits
    return visit.k, visit.step


def require_host(family: str, method: str, folder: Path) -> None:
    """Skips a way of numbering references that the host itself cannot sample with."""
    if not method:
        return
    try:
        sample(model_of(family, folder), edited(family, method), prompt(family, 2), start(family), steps=1)
    except RuntimeError:
        pytest.skip("this host cannot sample so itself")


def moved(one: Tensor, other: Tensor) -> list[int]:
    """The tokens that differ."""
    return ((one - other).abs().amax((0, 1, 3)) > 1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize(("family", "method"), [*REFERENCED, ("sd3", "")])
def test_every_stream_lies_where_the_layout_says(family: str, method: str, tmp_path: Path) -> None:
    require_host(family, method, tmp_path)
    noise = start(family)
    positive = edited(family, method) if method else prompt(family, 1)
    before, step = keys(family, tmp_path, positive, noise)
    layout = step.layout
    assert before.shape[1] == HEADS[family]
    assert before.shape[2] == layout.tokens
    assert (layout.text, layout.image.size) == (slice(0, TEXT[family]), GRID)
    assert tuple(grid.size for grid in layout.references) == (GRIDS if method else ())

    patch = noise.clone()
    patch[..., 2:4, 4:6] += 1
    row = keys(family, tmp_path, positive, patch)[0]
    assert moved(before, row) == [layout.image.start + 1 * GRID[1] + 2]

    words = prompt(family, 1)
    words[0][0] = words[0][0].clone()
    words[0][0][:, 3] += 1
    words[0][1].update({name: value for name, value in positive[0][1].items() if "reference" in name})
    assert moved(before, keys(family, tmp_path, words, noise)[0]) == [3]

    for number, grid in enumerate(layout.references):
        latent = reference(family, *SIZES[number], (21, 22)[number])
        latent[..., 2:3, 2:4] += 1
        changed = edited(family, method, **{f"latent_{number}": latent})
        assert moved(before, keys(family, tmp_path, changed, noise)[0]) == [grid.start + grid.width + 1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("cfg", "batch", "tokens"), [(1.0, 1, None), (3.0, 1, None), (3.0, 2, None), (3.0, 2, 90)]
)
def test_who_only_watches_leaves_every_bit(
    family: str, cfg: float, batch: int, tokens: int | None, tmp_path: Path
) -> None:
    model, watcher, noise = model_of(family, tmp_path), Watcher(), start(family, batch)
    prompts = prompt(family, 1), prompt(family, 2, tokens)
    expected = sample(model, *prompts, noise, cfg=cfg)
    assert torch.equal(sample(with_flow(model, watcher), *prompts, noise, cfg=cfg), expected)
    assert len(watcher.visits) == 2 * len(attention_sites(model))
    assert {visit.step.images for visit in watcher.visits} == {tuple(range(batch))}


@pytest.mark.parametrize(("family", "method"), REFERENCED)
def test_who_only_watches_an_edit_leaves_every_bit(family: str, method: str, tmp_path: Path) -> None:
    require_host(family, method, tmp_path)
    model, noise = model_of(family, tmp_path), start(family, 2)
    prompts = edited(family, method), prompt(family, 2)
    expected = sample(model, *prompts, noise, cfg=3.0)
    assert torch.equal(sample(with_flow(model, Watcher()), *prompts, noise, cfg=3.0), expected)


def anew(attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
    """The same attention, asked for again."""
    return attend(q.clone(), k, v, step.mask)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_attention_asked_for_again_is_softmax_attention(family: str, cfg: float, tmp_path: Path) -> None:
    model, noise = model_of(family, tmp_path), start(family, 2)
    watcher = Watcher(anew)
    prompts = prompt(family, 1), prompt(family, 2)
    found = sample(with_flow(model, watcher), *prompts, noise, cfg=cfg, steps=1)
    assert torch.allclose(found, sample(model, *prompts, noise, cfg=cfg, steps=1), atol=1e-4)
    for visit in watcher.visits:
        expected = dense(visit.q, visit.k, visit.v, visit.step.mask)
        assert torch.allclose(visit.out.double(), expected, atol=1e-5)


def test_the_models_own_mask_reaches_the_modifier(tmp_path: Path) -> None:
    from comfy.ldm.qwen_image.model import Attention

    if "encoder_hidden_states_mask is not None" not in inspect.getsource(Attention.forward):
        pytest.skip("this host hands the mask to no attention")
    model, watcher = model_of("qwen_image", tmp_path), Watcher()
    sample(with_flow(model, watcher), prompt("qwen_image", 1), prompt("qwen_image", 2), start("qwen_image"))
    mask = watcher.visits[0].step.mask
    assert mask is not None
    assert mask.shape == (1, 1, 1, watcher.visits[0].step.layout.tokens)
    assert (mask < -1e30).nonzero()[:, -1].tolist() == [TEXT["qwen_image"] - 2, TEXT["qwen_image"] - 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_some_queries_under_a_mask_of_ours(family: str, tmp_path: Path) -> None:
    chosen = [0, 9, 11]

    def some(attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        out = attend(q, k, v, step.mask).clone()
        bias = torch.zeros(1, 1, len(chosen), k.shape[-2])
        bias[..., 1, 4] = -2.0
        whole = bias if step.mask is None else bias + step.mask
        out[:, chosen] = attend(q[..., chosen, :], k, v, whole)
        expected = dense(q[..., chosen, :], k, v, whole)
        assert torch.allclose(out[:, chosen].double(), expected, atol=1e-5)
        return out

    watcher = Watcher(some)
    sample(
        with_flow(model_of(family, tmp_path), watcher), prompt(family, 1), prompt(family, 2), start(family, 2)
    )
    assert watcher.visits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [None, 90])
@pytest.mark.parametrize("asks", [True, False])
def test_the_negative_keeps_its_attention(
    family: str, tokens: int | None, asks: bool, tmp_path: Path
) -> None:
    def without(attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        return (attend(q, k, v, step.mask) if asks else dense(q, k, v).to(q)) * 0

    model, noise = model_of(family, tmp_path), start(family, 2)
    prompts = prompt(family, 1), prompt(family, 2, tokens)
    seen: dict[str, dict[int, Tensor]] = {}
    for name, one in (("plain", model.clone()), ("flow", with_flow(model, Watcher(without)))):
        seen[name] = {}

        def record(apply: Any, args: dict[str, Any], name: str = name) -> Tensor:
            out = apply(args["input"], args["timestep"], **args["c"])
            for number, part in zip(args["cond_or_uncond"], out.chunk(len(args["cond_or_uncond"]))):
                seen[name][number] = part
            return out

        one.set_model_unet_function_wrapper(record)
        sample(one, *prompts, noise, cfg=3.0, steps=1)
    assert torch.allclose(seen["plain"][1], seen["flow"][1], atol=1e-6)
    assert not torch.allclose(seen["plain"][0], seen["flow"][0], atol=1e-3)


def sharper(func: Any, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Another pack's attention override."""
    return func(q * 1.2, *args, **kwargs)


def with_override(model: Any) -> Any:
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = sharper
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ours_first", [True, False])
def test_another_packs_override_acts_on_all_that_we_ask(
    family: str, ours_first: bool, tmp_path: Path
) -> None:
    model, noise = model_of(family, tmp_path), start(family)
    prompts = prompt(family, 1), prompt(family, 2)
    expected = sample(with_override(model), *prompts, noise)
    for change in (None, anew):
        watcher = Watcher(change)
        both = (
            with_override(with_flow(model, watcher))
            if ours_first
            else with_flow(with_override(model), watcher)
        )
        found = sample(both, *prompts, noise)
        assert torch.equal(found, expected) if change is None else torch.allclose(found, expected, atol=1e-4)
        assert all(visit.step.whole_calls for visit in watcher.visits)
    assert not torch.allclose(sample(model, *prompts, noise), expected, atol=1e-3)


def test_two_modifiers_of_one_attention_act_one_around_another(tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    prompts = prompt("flux", 1), prompt("flux", 2)
    site = [Site.parse("single.0.attention")]

    def half(attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        return attend(q, k, v, step.mask) * 0.5

    inner, outer = Watcher(half), Watcher(half)
    sample(with_flow(with_flow(model, inner, site), outer, site), *prompts, noise, steps=1)
    assert torch.equal(outer.visits[0].out, inner.visits[0].out * 0.5)


def test_tokens_and_attention_of_one_block_are_both_reached(tmp_path: Path) -> None:
    from steerdit.host.attach import attach
    from steerdit.host.recording import Recorder

    model, watcher, recorder = model_of("flux", tmp_path), Watcher(), Recorder()
    sites = [Site.parse("double.1.attention"), Site.parse("double.1.image")]
    both = attach(model, [Entry(sites[0], watcher), Entry(sites[1], recorder)])
    prompts = prompt("flux", 1), prompt("flux", 2)
    assert torch.equal(sample(both, *prompts, start("flux")), sample(model, *prompts, start("flux")))
    assert len(watcher.visits) == len(recorder.records) == 2


def test_the_pictures_own_attention_in_sd3_medium_is_none_of_ours(tmp_path: Path) -> None:
    from . import tiny

    try:
        model = tiny.tiny("sd3", tmp_path, x_block_self_attn_layers=[0, 1])
    except TypeError:
        pytest.skip("this host has no such model")
    watcher, noise = Watcher(), start("sd3")
    prompts = prompt("sd3", 1), prompt("sd3", 2)
    assert model.model.diffusion_model.joint_blocks[0].x_block.x_block_self_attn
    assert torch.equal(sample(with_flow(model, watcher), *prompts, noise), sample(model, *prompts, noise))
    assert len(watcher.visits) == 2 * 3


def test_a_cache_that_drops_the_tokens_of_references_is_refused(tmp_path: Path) -> None:
    from comfy_extras import nodes_flux

    if not hasattr(nodes_flux, "FluxKVCache"):
        pytest.skip("this host has no such node")
    (cached,) = nodes_flux.FluxKVCache.execute(model_of("flux", tmp_path)).args
    with pytest.raises(SteeringError, match="caches the reference latents"):
        sample(with_flow(cached, Watcher()), edited("flux", "offset"), prompt("flux", 2), start("flux"))


def test_a_pack_that_drops_them_from_the_picture_is_refused(tmp_path: Path) -> None:
    model = model_of("flux", tmp_path).clone()
    model.set_model_post_input_patch(
        lambda inputs: {**inputs, "img": inputs["img"][:, :15], "img_ids": inputs["img_ids"][:, :15]}
    )
    with pytest.raises(SteeringError, match=r"double\.0\.attention.*reference latents"):
        sample(with_flow(model, Watcher()), edited("flux", "index"), prompt("flux", 2), start("flux"))


def test_an_area_is_refused(tmp_path: Path) -> None:
    model = with_flow(model_of("flux", tmp_path), Watcher())
    area = [[text, {**extra, "area": (4, 4, 0, 0), "strength": 1.0}] for text, extra in prompt("flux", 1)]
    with pytest.raises(SteeringError, match="limited to an area"):
        sample(model, area, prompt("flux", 2), start("flux"))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_override_that_another_pack_takes_away_is_refused(family: str, tmp_path: Path) -> None:
    def without(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        options = {
            **args["transformer_options"],
            "optimized_attention_override": lambda f, *a, **k: f(*a, **k),
        }
        return extra["original_block"]({**args, "transformer_options": options})

    model = model_of(family, tmp_path).clone()
    model.set_model_patch_replace(without, "dit", "double_block", 1)
    with pytest.raises(SteeringError, match=r"1\.attention"):
        sample(with_flow(model, Watcher()), prompt(family, 1), prompt(family, 2), start(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_that_the_model_lacks(family: str, tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match=r"\.9\.attention.*0\.attention to"):
        with_flow(model_of(family, tmp_path), Watcher(), [Site("double", 9, "attention")])


def test_other_sites_of_qwen_image_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("text", "joint.0.image"):
        with pytest.raises(SteeringError, match="the attention alone"):
            with_flow(model_of("qwen_image", tmp_path), Watcher(), [Site.parse(name)])


def test_nothing_stays_behind(tmp_path: Path) -> None:
    model = with_flow(model_of("flux", tmp_path), Watcher())
    options = model.model_options["transformer_options"]
    before = {name: value for name, value in options.items() if name != "wrappers"}
    sample(model, prompt("flux", 1), prompt("flux", 2), start("flux"))
    assert {name: value for name, value in options.items() if name != "wrappers"} == before
    assert "optimized_attention_override" not in options
