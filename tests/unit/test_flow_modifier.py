"""RestrictFlow: when it looks, what it remembers, and whose bits it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steerdit.steering.flow.localise import Selection, around
from steerdit.steering.flow.memory import Memory
from steerdit.steering.flow.restrict import Way
from steerdit.steering.flow.score import Detector, ScoreKind
from steerdit.steering.flow.step import FlowRecord, FlowState, FlowStep
from steerdit.steering.schedules import Schedule

from . import flows
from .restrictions import (
    HEADS,
    LATER,
    LAYOUT,
    MARKED,
    SIZE,
    WIDTH,
    Counting,
    core_of,
    detector,
    expected,
    restriction,
    visit,
)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("way", list(Way))
def test_it_finds_and_restricts_in_one_visit(renormalise: bool, way: Way) -> None:
    qkv = visit([MARKED])
    seen: list[FlowRecord] = []
    step = flows.step(LAYOUT, observe=seen.append)
    out = restriction(renormalise=renormalise, way=way)(flows.attend, *qkv, step)
    core = step.state.mask(0)
    assert core is not None
    assert torch.equal(core, core_of(MARKED))
    torch.testing.assert_close(
        out.double(), expected(qkv, [core], renormalise=renormalise), rtol=1e-5, atol=1e-5
    )
    (record,) = seen
    assert record.concepts == ("blade",)
    assert record.scores.shape == (1, 1, *SIZE)
    assert torch.equal(record.regions[0].core, core)
    assert not record.warnings


def test_without_a_passing_anchor_the_output_is_the_very_tensor() -> None:
    modifier, state = restriction(detectors=(detector(1e6),)), FlowState()
    for site, sigma in ((flows.SITE, 1.0), (LATER, 1.0), (flows.SITE, 0.7), (LATER, 0.5)):
        attend = Counting()
        step = flows.step(LAYOUT, site=site, sigma=sigma, state=state)
        assert modifier(attend, *visit([MARKED]), step) is attend.given[0]
        assert len(attend.given) == 1
        assert modifier.wants(site, sigma, step.percent_to_sigma, state) == (
            site == flows.SITE and sigma > 0.64
        )


def test_pictures_of_a_batch_are_localised_each_for_itself() -> None:
    qkv = visit([MARKED, set(), {0}])
    step = flows.step(LAYOUT, (4, 2, 9))
    attend = Counting()
    out = restriction()(attend, *qkv, step)
    plain = attend.given[0]
    assert torch.equal(out[1], plain[1])
    assert not step.state.mask(2).any()  # type: ignore[union-attr]
    assert step.state.mask(9).flatten().nonzero()[:, 0].tolist() == [0]  # type: ignore[union-attr]
    for row, image in enumerate(step.images):
        alone = flows.step(LAYOUT, (image,))
        single = restriction()(flows.attend, *(x[row : row + 1] for x in qkv), alone)
        torch.testing.assert_close(out[row : row + 1], single, rtol=1e-5, atol=1e-6)


def test_what_was_found_holds_at_other_sites_and_later_steps() -> None:
    modifier, state = restriction(active=Schedule(0.0, 1.0)), FlowState()
    modifier(flows.attend, *visit([MARKED]), flows.step(LAYOUT, state=state))
    core = state.mask(0)
    assert core is not None
    other = visit([set()], seed=3)
    for site, sigma in ((LATER, 1.0), (flows.SITE, 0.3), (LATER, 0.01)):
        assert modifier.wants(site, sigma, lambda percent: 1 - percent, state)
        out = modifier(flows.attend, *other, flows.step(LAYOUT, site=site, sigma=sigma, state=state))
        torch.testing.assert_close(out.double(), expected(other, [core]), rtol=1e-5, atol=1e-5)
    assert torch.equal(state.mask(0), core)  # type: ignore[arg-type]


def test_outside_its_schedule_and_its_sites_nothing_happens() -> None:
    modifier, state = restriction(sites=frozenset({LATER}), active=Schedule(0.0, 0.5)), FlowState()
    attend = Counting()
    # It localises here, and restricts elsewhere.
    assert modifier(attend, *visit([MARKED]), flows.step(LAYOUT, state=state)) is attend.given[0]
    assert state.mask(0).any()  # type: ignore[union-attr]
    attend = Counting()
    late = flows.step(LAYOUT, site=LATER, sigma=0.4, state=state)
    assert modifier(attend, *visit([MARKED]), late) is attend.given[0]
    assert not modifier.wants(LATER, 0.4, late.percent_to_sigma, state)
    assert modifier.wants(LATER, 0.9, late.percent_to_sigma, state)


@pytest.mark.parametrize(
    ("memory", "then"), [(Memory.FIRST, {0}), (Memory.LATEST, {19}), (Memory.UNION, {0, 19})]
)
def test_memory(memory: Memory, then: set[int]) -> None:
    modifier, state = restriction(memory=memory), FlowState()
    modifier(flows.attend, *visit([{0}]), flows.step(LAYOUT, state=state))
    q, k, v = visit([{19}], seed=1)
    modifier(flows.attend, q, k, v, flows.step(LAYOUT, state=state, sigma=0.9))
    core = state.mask(0)
    assert core is not None
    assert set(core.flatten().nonzero()[:, 0].tolist()) == then
    # What is restricted next follows what is remembered.
    out = modifier(flows.attend, q, k, v, flows.step(LAYOUT, site=LATER, state=state))
    torch.testing.assert_close(out.double(), expected((q, k, v), [core]), rtol=1e-5, atol=1e-5)


def test_a_first_localisation_that_found_nothing_holds_too() -> None:
    modifier, state = restriction(memory=Memory.FIRST), FlowState()
    seen: list[FlowRecord] = []
    for marked in (set[int](), MARKED):
        attend = Counting()
        out = modifier(attend, *visit([marked]), flows.step(LAYOUT, state=state, observe=seen.append))
        assert out is attend.given[0]
        assert len(attend.given) == 1
    assert len(seen) == 1


def test_several_concepts_are_marked_together() -> None:
    second = torch.zeros(1, HEADS, WIDTH)
    second[0, 0, 1] = 1.0
    other = Detector("blood", ScoreKind.WHITENED, 400.0, second, torch.zeros(1, HEADS))
    q, k, v = visit([{0}])
    q[0, 0, LAYOUT.image.start + 19] = k[0, 0, LAYOUT.image.start + 19] = torch.tensor([0.0, 0.0, 0.0, -90.0])
    v[0, 0, LAYOUT.image.start + 19, 1] = 1000.0
    step = flows.step(LAYOUT)
    restriction(detectors=(detector(), other))(flows.attend, q, k, v, step)
    assert set(step.state.mask(0).flatten().nonzero()[:, 0].tolist()) == {0, 19}  # type: ignore[union-attr]


def test_an_incoming_mask_counts_as_well() -> None:
    q, k, v = visit([{6}])
    mask = torch.zeros(1, 1, LAYOUT.tokens)
    mask[..., 1] = -torch.inf
    for whole in (False, True):
        step = flows.step(LAYOUT, mask=mask, whole_calls=whole)
        out = restriction()(flows.attend, q, k, v, step)
        wanted = expected((q, k, v), [step.state.mask(0)], mask=mask)  # type: ignore[list-item]
        torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
        changed = v.clone()
        changed[:, :, 1] = 1e3
        again = restriction()(flows.attend, q, k, changed, flows.step(LAYOUT, mask=mask))
        torch.testing.assert_close(again, out)


def test_whole_calls_go_before_all_others() -> None:
    lengths: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        lengths.append(q.shape[2])
        return flows.attend(q, k, v, mask)

    state = FlowState({0: around(core_of({6}), 1)})
    for whole, first in ((True, LAYOUT.tokens), (False, LAYOUT.tokens - 9)):
        lengths.clear()
        restriction()(attend, *visit([{6}]), flows.step(LAYOUT, site=LATER, state=state, whole_calls=whole))
        assert lengths[0] == first
        assert lengths[1:] == [9]  # core and ring together


def test_a_threshold_that_marks_everything_is_told() -> None:
    seen: list[FlowRecord] = []
    restriction(detectors=(detector(-1e3),))(
        flows.attend, *visit([MARKED]), flows.step(LAYOUT, observe=seen.append)
    )
    (warning,) = seen[0].warnings
    assert warning.startswith("The whole picture is marked at single.1.attention")
    restriction(detectors=(detector(-1e3), replace(detector(-2e3), concept="blood")))(
        flows.attend, *visit([MARKED]), flows.step(LAYOUT, observe=seen.append)
    )
    (warning,) = seen[1].warnings
    assert "by the threshold of blade (-1000), blood (-2000): nothing safe is left" in warning


def test_the_call_of_a_shared_object_changes_nothing_in_it() -> None:
    modifier = restriction(selection=Selection(ring=2))
    before = dict(vars(modifier))
    modifier(flows.attend, *visit([MARKED]), flows.step(LAYOUT))
    assert vars(modifier) == before


def test_a_step_says_where_it_is() -> None:
    step: FlowStep = flows.step(LAYOUT, sigma=0.25)
    assert step.where == "single.1.attention at sigma 0.25"
    assert step.within(Schedule(0.5, 1.0))
    assert not step.within(Schedule(0.0, 0.5))
