"""Restrict Flow in the host: exact, on the marked patches of each picture, beside whatever else steers; never silently
without effect.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerdit.host.attach import attach_flow, attention_sites
from steerdit.host.run import find_flows, forget_logs
from steerdit.nodes.flow import RestrictFlowNode
from steerdit.nodes.flow_mask import FlowMaskNode
from steerdit.steering import SteeringError
from steerdit.steering.flow.asked import restriction_asked
from steerdit.steering.flow.layout import FlowLayout, onto
from steerdit.steering.flow.modifier import RestrictFlow

from .anchors import anchors
from .flows import (
    FAMILIES,
    GRID,
    Visit,
    Watcher,
    model_of,
    prompt,
    reference,
    sample,
    start,
    with_flow,
)
from .steered import repelled
from .synthetic import bundle
from .test_flow_attention import edited, sharper, with_override

ASKED: dict[str, Any] = {
    "task": "generation",
    "concepts": "all",
    "score": "whitened",
    "threshold": "calibrated",
    "threshold_value": 0.0,
    "localise_at": "default",
    "sites": "all",
    "core": 0.2,
    "ring": 0.4,
    "safe": 1.05,
    "noise": 0.0,
    "startup_percent": 0.7,
    "end_percent": 1.0,
    "form": "renormalised",
    "several": False,
    "heads": "all",
}
SEEDS = {"qwen_image": 14}
MASK = torch.zeros(1, *GRID)
MASK[0, 1, 2:4] = 1
OTHER = torch.zeros(1, *GRID)
OTHER[0, 2, 0] = 1


def restricted(model: Any, bundle: Any = None, mask: Tensor | None = None, **changes: Any) -> Any:
    """The MODEL that the node gives."""
    steered, _ = RestrictFlowNode.execute(model=model, bundle=bundle, mask=mask, **{**ASKED, **changes}).args
    return steered


def prompts(family: str) -> tuple[Any, Any]:
    return prompt(family, 1), prompt(family, 2, 90)


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_is_found_or_done_every_bit_stays(family: str, tmp_path: Path) -> None:
    model, noise = model_of(family, tmp_path), start(family, 2)
    plain = sample(model, *prompts(family), noise, cfg=3.0)
    never = restricted(model, anchors(tmp_path, family, threshold=1e9), noise=0.999)
    assert torch.equal(sample(never, *prompts(family), noise, cfg=3.0), plain)
    nothing = restricted(model, mask=MASK, core=1.0, ring=1.0, safe=1.0)
    assert torch.equal(sample(nothing, *prompts(family), noise, cfg=3.0), plain)
    late = restricted(model, mask=MASK, startup_percent=0.0, end_percent=0.0, noise=0.999)
    assert torch.equal(sample(late, *prompts(family), noise, cfg=3.0), plain)


def weights_of(layout: FlowLayout, core: Tensor, flow: str, weights: tuple[float, float, float]) -> Tensor:
    """λ (L, L), written down pair by pair from the definition; the ring is one patch wide."""
    inner, outer, safe = weights
    wide = torch.nn.functional.max_pool2d(core[None, None].float(), 3, 1, 1)[0, 0] > 0
    strength = torch.where(core, inner, torch.where(wide, outer, 1.0))
    result = torch.ones(layout.tokens, layout.tokens, dtype=torch.float64)
    image = layout.image
    if flow in ("content", "both"):
        outside = [j for j in range(layout.tokens) if not image.start <= j < image.stop]
        for patch in range(image.count):
            if strength.flatten()[patch] < 1:
                result[image.start + patch, outside] = float(strength.flatten()[patch])
                unmarked = image.start + (~wide).flatten().nonzero()[:, 0]
                result[image.start + patch, unmarked] = safe
    if flow in ("reference", "both"):
        queries = [*range(layout.text.start, layout.text.stop), *range(image.start, image.stop)]
        for grid in layout.references:
            theirs, ring = onto(core, grid.size), onto(wide, grid.size)
            for key in range(grid.count):
                value = inner if theirs.flatten()[key] else outer if ring.flatten()[key] else 1.0
                column = result[queries, grid.start + key]
                result[queries, grid.start + key] = column.clamp(max=value) if value < 1 else column
    return result


def expected_of(visit: Visit, core: Tensor, flow: str, form: str) -> Tensor:
    """Restricted attention in float64, with the whole matrix."""
    logits = visit.q.double() @ visit.k.double().transpose(-1, -2) / visit.q.shape[-1] ** 0.5
    if visit.step.mask is not None:
        logits = logits + visit.step.mask.double()
    shares = logits.softmax(-1) * weights_of(visit.step.layout, core, flow, (0.2, 0.4, 1.05))
    if form == "renormalised":
        shares = shares / shares.sum(-1, keepdim=True)
    return (shares @ visit.v.double()).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("form", ["renormalised", "unrenormalised"])
@pytest.mark.parametrize(
    ("family", "task"),
    [("flux", "generation"), ("sd3", "generation"), ("qwen_image", "generation"), ("flux", "editing"),
     ("qwen_image", "both")],
)  # fmt: skip
def test_it_is_exactly_the_attention_that_is_meant(family: str, task: str, form: str, tmp_path: Path) -> None:
    model, watcher = model_of(family, tmp_path), Watcher()
    steered = restricted(model, mask=torch.cat([MASK, OTHER]), task=task, form=form)
    positive = prompt(family, 1) if task == "generation" else edited(family, "index")
    sample(with_flow(steered, watcher), positive, prompt(family, 2), start(family, 2), steps=1)
    flow = {"generation": "content", "editing": "reference", "both": "both"}[task]
    for visit in watcher.visits:
        for row, mask in enumerate((MASK, OTHER)):
            own = Visit(*(x[row : row + 1] for x in visit[:3]), visit.step, visit.out[row : row + 1])
            expected = expected_of(own, mask[0] > 0.5, flow, form)
            assert torch.allclose(own.out.double(), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_mask_of_pairs_by_another_node_acts_as_well(rows: int, tmp_path: Path) -> None:
    model, watcher = model_of("flux", tmp_path).clone(), Watcher()
    length = 7 + GRID[0] * GRID[1]
    bias = torch.randn(rows, 1, length, length, generator=torch.Generator().manual_seed(3))

    def regional(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, attn_mask: Any, extra_options: Any) -> Any:
        return {"q": q, "k": k, "v": v, "pe": pe, "attn_mask": bias}

    model.set_model_attn1_patch(regional)
    steered = restricted(model, mask=torch.cat([MASK, OTHER]))
    try:
        sample(with_flow(steered, watcher), prompt("flux", 1), prompt("flux", 2), start("flux", 2), steps=1)
    except TypeError:
        pytest.skip("this host's patches of attention are called otherwise")
    if watcher.visits[0].step.mask is None:
        pytest.skip("this host's patches of attention take no mask")
    for visit in watcher.visits:
        for row, mask in enumerate((MASK, OTHER)):
            own = Visit(*(x[row : row + 1] for x in visit[:3]), visit.step, visit.out[row : row + 1])
            wanted = bias[row : row + 1] if rows == 2 else bias
            step = dataclasses.replace(visit.step, mask=wanted)
            expected = expected_of(own._replace(step=step), mask[0] > 0.5, "content", "renormalised")
            assert torch.allclose(own.out.double(), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_picture_of_a_batch_has_its_own_mask(family: str, tmp_path: Path) -> None:
    model, noise = model_of(family, tmp_path), start(family, 2)
    both = restricted(model, mask=torch.cat([MASK, OTHER]))
    found = sample(both, *prompts(family), noise, cfg=3.0)
    for row, mask in enumerate((MASK, OTHER)):
        alone = sample(restricted(model, mask=mask), *prompts(family), noise[row : row + 1], cfg=3.0)
        assert torch.allclose(found[row : row + 1], alone, atol=1e-3)
        assert not torch.allclose(
            alone, sample(model, *prompts(family), noise[row : row + 1], cfg=3.0), atol=1e-3
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_anchors_find_is_restricted_and_told(family: str, tmp_path: Path) -> None:
    model, noise = model_of(family, tmp_path), start(family, 2)
    # The tiny Qwen-Image's patches are much alike, and random anchors stand on one side of all of them.
    file = anchors(tmp_path, family, seed=SEEDS.get(family, 13))
    steered = restricted(model, file, noise=0.5)
    found = sample(steered, *prompts(family), noise, cfg=3.0)
    again = sample(steered, *prompts(family), noise, cfg=3.0)
    assert torch.equal(found, again)
    assert not torch.allclose(found, sample(model, *prompts(family), noise, cfg=3.0), atol=1e-3)
    mask, overlay, any_found, table = FlowMaskNode.execute(samples={"samples": found}).args
    assert mask.shape == (2, 16 * GRID[0], 16 * GRID[1])
    assert overlay.shape == (*mask.shape, 3)
    assert any_found
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert "weapons" in table
    assert "bloody" in table
    for image, ((log, at), *_) in enumerate(find_flows(found)):
        region = log.region(at)
        assert region is not None
        assert torch.equal(mask[image, ::16, ::16] > 0, region.core)


@pytest.mark.parametrize("ours_first", [True, False])
def test_another_packs_override_acts_as_well(ours_first: bool, tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    ours = restricted(model, mask=MASK)
    both = with_override(ours) if ours_first else restricted(with_override(model), mask=MASK)

    def account(attend: Any, q: Tensor, k: Tensor, v: Tensor, step: Any) -> Tensor:
        visit = Visit(q * 1.2, k, v, step, q)
        return expected_of(visit, MASK[0] > 0.5, "content", "renormalised").to(q)

    expected = sample(with_flow(model, Watcher(account)), *prompts("flux"), noise)
    assert torch.allclose(sample(both, *prompts("flux"), noise), expected, atol=1e-4)
    for without in (ours, with_override(model)):
        assert not torch.allclose(sample(without, *prompts("flux"), noise), expected, atol=1e-3)
    assert sharper


def test_beside_repel_both_act_in_any_order(tmp_path: Path) -> None:
    from . import tiny

    model, noise = tiny.tiny("flux", tmp_path), start("flux")
    file = bundle(tmp_path, "flux", ("double.1.image",))
    one = repelled(restricted(model, mask=MASK), file, gate="always")
    other = restricted(repelled(model, file, gate="always"), mask=MASK)
    expected = sample(one, *prompts("flux"), noise)
    assert torch.equal(sample(other, *prompts("flux"), noise), expected)
    for alone in (restricted(model, mask=MASK), repelled(model, file, gate="always")):
        assert not torch.allclose(sample(alone, *prompts("flux"), noise), expected, atol=1e-3)


def test_some_heads_at_some_sites(tmp_path: Path) -> None:
    model, watcher, noise = model_of("flux", tmp_path), Watcher(), start("flux")
    steered = restricted(model, mask=MASK, sites="single.1.attention", heads="1", core=0.0, ring=0.0)
    plain = Watcher()
    last = [attention_sites(model)[-1]]
    sample(with_flow(steered, watcher, last), *prompts("flux"), noise, steps=1)
    sample(with_flow(model, plain, last), *prompts("flux"), noise, steps=1)
    ours, theirs = (one.visits[0].out.unflatten(-1, (2, -1)) for one in (watcher, plain))
    assert torch.allclose(ours[:, :, 0], theirs[:, :, 0], atol=1e-6)
    assert not torch.allclose(ours[:, :, 1], theirs[:, :, 1], atol=1e-3)


def refusal(act: Any) -> str:
    with pytest.raises(SteeringError) as caught:
        act()
    return str(caught.value)


def test_a_bundle_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    assert "the family flux" in refusal(lambda: restricted(model, anchors(tmp_path, "sd3")))
    assert "single.7.attention" in refusal(
        lambda: restricted(model, anchors(tmp_path, "flux", site="single.7.attention"))
    )
    for size in ({"heads": 3}, {"width": 64}):
        steered = restricted(model, anchors(tmp_path, "flux", **size))
        assert "heads of width" in refusal(lambda one=steered: sample(one, *prompts("flux"), noise))
    assert "single.0.attention" in refusal(
        lambda: restricted(model, anchors(tmp_path, "flux"), localise_at="single.0.attention")
    )
    assert "anchors of unsafe content" in refusal(lambda: restricted(model, bundle(tmp_path, "flux")))
    assert "benign patches" in refusal(
        lambda: restricted(
            model, anchors(tmp_path, "flux", benign=False), threshold="given", threshold_value=1.0
        )
    )
    assert "calibrated threshold" in refusal(
        lambda: restricted(model, anchors(tmp_path, "flux"), score="dot")
    )
    assert "score dot" in refusal(lambda: restricted(model, anchors(tmp_path, "flux"), threshold="published"))
    assert "bloody" in refusal(lambda: restricted(model, anchors(tmp_path, "flux"), concepts="swords"))


def test_all_concepts_are_those_that_have_a_threshold(tmp_path: Path) -> None:
    model, file = model_of("flux", tmp_path), anchors(tmp_path, "flux", lacking="bloody")
    _, rules = RestrictFlowNode.execute(model=model, bundle=file, **ASKED).args
    assert "weapons: whitened" in rules
    assert "not looked for: bloody" in rules
    assert "calibrated threshold" in refusal(lambda: restricted(model, file, concepts="bloody"))


def test_masks_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    assert "neither" in refusal(lambda: restricted(model))
    assert "both" in refusal(lambda: restricted(model, anchors(tmp_path, "flux"), MASK))
    assert "empty mask" in refusal(lambda: restricted(model, mask=MASK * 0))
    square = restricted(model, mask=torch.ones(1, 64, 64))
    assert "MASK" in refusal(lambda: sample(square, *prompts("flux"), noise))
    many = restricted(model, mask=MASK.repeat(3, 1, 1))
    sample(many, *prompts("flux"), noise)
    few = restricted(model, mask=MASK.repeat(2, 1, 1))
    assert "picture number 3" in refusal(lambda: sample(few, *prompts("flux"), start("flux", 3)))


def test_an_edit_without_references_is_refused(tmp_path: Path) -> None:
    model = restricted(model_of("flux", tmp_path), mask=MASK, task="editing")
    assert "reference latents" in refusal(lambda: sample(model, *prompts("flux"), start("flux")))


def test_a_threshold_that_marks_everything_is_told(tmp_path: Path) -> None:
    model = restricted(
        model_of("flux", tmp_path), anchors(tmp_path, "flux"), threshold="given", threshold_value=-1e6
    )
    found = sample(model, *prompts("flux"), start("flux"))
    *_, table = FlowMaskNode.execute(samples={"samples": found}).args
    assert "warning: " in table
    assert "The whole picture is marked" in table


def test_restricted_at_no_step_it_looks_all_the_same(tmp_path: Path) -> None:
    model, noise = model_of("flux", tmp_path), start("flux")
    asked = {"threshold": "given", "threshold_value": -1e6, "noise": 0.999}
    looked = restricted(model, anchors(tmp_path, "flux"), end_percent=0.0, **asked)
    found = sample(looked, *prompts("flux"), noise)
    assert torch.equal(found, sample(model, *prompts("flux"), noise))
    mask, _, marked, _ = FlowMaskNode.execute(samples={"samples": found}).args
    assert marked
    assert mask.any()
    blind = restricted(model, anchors(tmp_path, "flux"), startup_percent=0.0, **asked)
    forget_logs()  # the same picture came out of the run above
    unseen = sample(blind, *prompts("flux"), noise)
    assert "never looked" in refusal(lambda: FlowMaskNode.execute(samples={"samples": unseen}))


def test_numbers_that_are_none_stop_the_run(tmp_path: Path) -> None:
    model = model_of("flux", tmp_path).clone()

    def broken(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"](args)
        return {**out, "img": out["img"] * float("nan")}

    model.set_model_patch_replace(broken, "dit", "double_block", 0)
    steered = restricted(model, anchors(tmp_path, "flux"))
    assert "finite" in refusal(lambda: sample(steered, *prompts("flux"), start("flux")))


def test_a_picture_that_nobody_looked_at_has_no_mask(tmp_path: Path) -> None:
    from steerdit.host.attach import attach
    from steerdit.host.recording import Recorder
    from steerdit.steering import Entry, Site

    watched = attach(model_of("flux", tmp_path), [Entry(Site("text"), Recorder())])
    found = sample(watched, *prompts("flux"), start("flux"))
    assert "never looked" in refusal(lambda: FlowMaskNode.execute(samples={"samples": found}))


def test_a_restriction_is_asked_for_by_words_or_in_code(tmp_path: Path) -> None:
    model = model_of("flux", tmp_path)
    restriction = restriction_asked(attention_sites(model), None, MASK, noise=0.0)
    assert isinstance(restriction, RestrictFlow)
    steered = attach_flow(model, restriction)
    plan = steered.model_options["transformer_options"]["steerdit_plan"]
    assert plan.sites() == attention_sites(model)
    assert reference("flux", 2, 2, 1).shape == (1, 16, 2, 2)
