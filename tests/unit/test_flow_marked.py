"""What RestrictFlow does at marked patches: masks that are given, noise, chosen heads, references."""

from __future__ import annotations

import pytest
import torch

from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.groups import Flow, Weights, groups_of
from steerdit.steering.flow.localise import around
from steerdit.steering.flow.modifier import RestrictFlow
from steerdit.steering.flow.noise import Noise, noise_seed
from steerdit.steering.flow.step import FlowRecord, FlowState
from steerdit.steering.schedules import Schedule

from . import flows
from .restrictions import (
    HEADS,
    LATER,
    LAYOUT,
    MARKED,
    QUIET,
    SIZE,
    WIDTH,
    Counting,
    core_of,
    expected,
    masked,
    visit,
)


def test_a_given_mask_needs_no_anchors() -> None:
    modifier = masked(core_of(MARKED)[None])
    qkv = visit([set()])
    assert modifier.wants(LATER, 1.0, lambda percent: 1 - percent, FlowState())
    seen: list[FlowRecord] = []
    out = modifier(flows.attend, *qkv, flows.step(LAYOUT, site=LATER, observe=seen.append))
    torch.testing.assert_close(out.double(), expected(qkv, [core_of(MARKED)]), rtol=1e-5, atol=1e-5)
    assert len(seen) == 1
    assert torch.equal(seen[0].regions[0].core, core_of(MARKED))


def test_each_picture_has_its_own_mask_at_any_resolution() -> None:
    masks = torch.stack([core_of({0}), core_of({19}), core_of(set())])
    pixels = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :31, :39]
    step = flows.step(LAYOUT, (1, 0, 2), site=LATER)
    attend = Counting()
    out = masked(pixels)(attend, *visit([set(), set(), set()]), step)
    for image, mask in enumerate(masks):
        assert torch.equal(step.state.mask(image), mask)  # type: ignore[arg-type]
    assert torch.equal(out[2], attend.given[0][2])


def test_noise_fills_the_core_and_nothing_else() -> None:
    qkv, core = visit([set()]), core_of(MARKED)
    quiet = masked(core[None])(flows.attend, *qkv, flows.step(LAYOUT, site=LATER))
    noisy = RestrictFlow(masks=core[None], noise=Noise(0.999))(
        flows.attend, *qkv, flows.step(LAYOUT, site=LATER)
    )
    rows = torch.zeros(LAYOUT.tokens, dtype=torch.bool)
    rows[LAYOUT.image.span] = core.flatten()
    assert torch.equal(noisy[0, ~rows], quiet[0, ~rows])
    size = noisy[0, rows].square().mean().sqrt() / quiet[0, LAYOUT.image.span].square().mean().sqrt()
    assert 0.6 < size < 1.5
    assert torch.corrcoef(torch.stack([noisy[0, rows].flatten(), quiet[0, rows].flatten()]))[0, 1].abs() < 0.5
    half = RestrictFlow(masks=core[None], noise=Noise(0.5))(
        flows.attend, *qkv, flows.step(LAYOUT, site=LATER)
    )
    unit = RestrictFlow(masks=core[None], noise=Noise(1.0, matched=False))(
        flows.attend, *qkv, flows.step(LAYOUT, site=LATER)
    )
    drawn = torch.Generator().manual_seed(noise_seed(5, 0, LATER, 1.0))
    assert torch.equal(unit[0, rows], torch.randn(len(MARKED), HEADS * WIDTH, generator=drawn))
    assert not torch.equal(half, noisy)


def test_noise_depends_on_seed_picture_site_and_sigma_alone() -> None:
    qkv, modifier = visit([set(), set()]), RestrictFlow(masks=core_of(MARKED)[None])
    base = modifier(flows.attend, *qkv, flows.step(LAYOUT, (0, 1), site=LATER))
    assert torch.equal(modifier(flows.attend, *qkv, flows.step(LAYOUT, (0, 1), site=LATER)), base)
    swapped = modifier(flows.attend, *(x.flip(0) for x in qkv), flows.step(LAYOUT, (1, 0), site=LATER))
    torch.testing.assert_close(swapped.flip(0), base, rtol=1e-5, atol=1e-6)
    for change in ({"seed": 6}, {"site": flows.SITE}, {"sigma": 0.9}):
        other = modifier(flows.attend, *qkv, flows.step(LAYOUT, (0, 1), **{"site": LATER, **change}))
        assert not torch.allclose(other, base, atol=1e-3)


def test_noise_ends_with_the_start_up_stage() -> None:
    qkv = visit([set()])
    late = flows.step(LAYOUT, site=LATER, sigma=0.5)
    always = RestrictFlow(masks=core_of(MARKED)[None], active=Schedule())
    out = always(flows.attend, *qkv, late)
    torch.testing.assert_close(out.double(), expected(qkv, [core_of(MARKED)]), rtol=1e-5, atol=1e-5)


def test_noise_may_end_before_the_start_up_stage() -> None:
    qkv = visit([set()])
    brief = RestrictFlow(masks=core_of(MARKED)[None], noisy=Schedule(0.0, 0.1))
    early, later = (
        brief(flows.attend, *qkv, flows.step(LAYOUT, site=LATER, sigma=sigma)) for sigma in (0.95, 0.85)
    )
    wanted = expected(qkv, [core_of(MARKED)])
    torch.testing.assert_close(later.double(), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(early.double(), wanted, atol=1e-3)


def test_noise_alone_needs_no_weights() -> None:
    qkv = visit([set()])
    modifier = RestrictFlow(masks=core_of(MARKED)[None], weights=Weights(1.0, 1.0, 1.0), noise=Noise(1.0))
    plain = flows.attend(*qkv, None)
    out = modifier(flows.attend, *qkv, flows.step(LAYOUT, site=LATER))
    rows = torch.zeros(LAYOUT.tokens, dtype=torch.bool)
    rows[LAYOUT.image.span] = core_of(MARKED).flatten()
    assert torch.equal(out[0, ~rows], plain[0, ~rows])
    assert not torch.equal(out[0, rows], plain[0, rows])
    # And with neither, nothing happens at all.
    attend = Counting()
    idle = RestrictFlow(masks=core_of(MARKED)[None], weights=Weights(1.0, 1.0, 1.0), noise=QUIET)
    assert idle(attend, *qkv, flows.step(LAYOUT, site=LATER)) is attend.given[0]


def test_chosen_heads_alone_are_restricted_and_noisy() -> None:
    qkv = visit([set()])
    modifier = RestrictFlow(masks=core_of(MARKED)[None], heads=(1,))
    out = modifier(flows.attend, *qkv, flows.step(LAYOUT, site=LATER))
    plain = flows.attend(*qkv, None)
    assert torch.equal(out[..., :WIDTH], plain[..., :WIDTH])
    assert not torch.equal(out[..., WIDTH:], plain[..., WIDTH:])
    with pytest.raises(SteeringError, match="expected heads from 0 to 1, found 2"):
        RestrictFlow(masks=core_of(MARKED)[None], heads=(2,))(
            flows.attend, *qkv, flows.step(LAYOUT, site=LATER)
        )


def test_references_are_restricted_at_the_marked_places_to_the_last_step() -> None:
    where = flows.layout(2, SIZE, [(8, 10), (2, 2)])
    modifier = RestrictFlow(masks=core_of({0})[None], flow=Flow.REFERENCE, noise=QUIET, active=Schedule())
    qkv = flows.qkv(4, 1, HEADS, where.tokens, WIDTH)
    out = modifier(flows.attend, *qkv, flows.step(where, site=LATER, sigma=0.01))
    groups = [groups_of(where, around(core_of({0}), 1), Weights(), Flow.REFERENCE, where.tokens)]
    wanted = flows.dense(*qkv, flows.factors_of(groups, where.tokens))
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        SteeringError, match="expected reference latents, whose flow is to be restricted, found none"
    ):
        modifier(flows.attend, *visit([set()]), flows.step(LAYOUT, site=LATER))
