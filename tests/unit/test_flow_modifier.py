"""RestrictFlow: when it looks, what it remembers, whose bits it leaves alone, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.groups import Flow, Weights, groups_of
from steerdit.steering.flow.layout import FlowLayout
from steerdit.steering.flow.localise import Selection, around
from steerdit.steering.flow.modifier import Memory, Noise, RestrictFlow
from steerdit.steering.flow.noise import noise_seed
from steerdit.steering.flow.restrict import Way
from steerdit.steering.flow.score import Detector, ScoreKind
from steerdit.steering.flow.step import FlowRecord, FlowState, FlowStep
from steerdit.steering.schedules import Schedule
from steerdit.steering.sites import Site

from . import flows

HEADS, WIDTH, SIZE = 2, 4, (4, 5)
LAYOUT = flows.layout(3, SIZE)
LATER = Site.parse("single.2.attention")
QUIET = Noise(0.0)


def detector(
    threshold: float = 0.5, concept: str = "blade", heads: int = HEADS, width: int = WIDTH
) -> Detector:
    """Scores a patch by its attention output's first number."""
    probe = torch.zeros(1, heads, width)
    probe[0, 0, 0] = 1.0
    return Detector(concept, ScoreKind.WHITENED, threshold, probe, torch.zeros(1, heads))


def visit(marks: list[set[int]], where: FlowLayout = LAYOUT, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of pictures whose marked patches attend to marked ones alone, and so have 1 as their output's first."""
    q, k, v = flows.qkv(seed, len(marks), HEADS, where.tokens, WIDTH)
    q[..., -1] = k[..., -1] = 0.0
    v[..., 0] = 0.0
    for row, marked in enumerate(marks):
        for patch in marked:
            at = where.image.start + patch
            q[row, 0, at] = k[row, 0, at] = 0.0
            q[row, 0, at, -1] = k[row, 0, at, -1] = 90.0
            v[row, 0, at, 0] = 1.0
    return q, k, v


MARKED = {6, 7, 11}


def restriction(**changes: Any) -> RestrictFlow:
    return RestrictFlow(**{"site": flows.SITE, "detectors": (detector(),), "noise": QUIET, **changes})


class Counting:
    """`attend` that remembers what it gave."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        self.given.append(flows.attend(q, k, v, mask))
        return self.given[-1]


def expected(qkv: tuple[Tensor, Tensor, Tensor], cores: list[Tensor], **more: Any) -> Tensor:
    groups = [groups_of(LAYOUT, around(core, 1), Weights(), Flow.CONTENT, LAYOUT.tokens) for core in cores]
    return flows.dense(*qkv, flows.factors_of(groups, LAYOUT.tokens), **more)


def core_of(marked: set[int]) -> Tensor:
    core = torch.zeros(SIZE, dtype=torch.bool).flatten()
    core[list(marked)] = True
    return core.view(SIZE)


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


# --- masks that are given --------------------------------------------------------------------------------------------


def masked(masks: Tensor, **changes: Any) -> RestrictFlow:
    return RestrictFlow(masks=masks, noise=QUIET, **changes)


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


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            torch.zeros(1, 4, 5, dtype=torch.bool),
            "MASK: expected a mask that marks something, found an empty mask",
        ),
        (torch.ones(4, 5, dtype=torch.bool), "found a torch.bool tensor of shape"),
        (torch.ones(1, 4, 5), "masks .* of true and false, found a torch.float32"),
        (torch.ones(0, 4, 5, dtype=torch.bool), "found a torch.bool tensor of shape"),
    ],
)
def test_masks_that_are_none_are_refused(masks: Tensor, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        masked(masks)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SteeringError, match="2 masks and a picture number 3"):
        masked(torch.ones(2, 4, 5, dtype=torch.bool))(
            flows.attend, *visit([set()]), flows.step(LAYOUT, (2,), site=LATER)
        )
    with pytest.raises(
        SteeringError, match="a mask of the picture's shape, 5 wide to 4 high, found 90 × 30 pixels"
    ):
        masked(torch.ones(1, 30, 90, dtype=torch.bool))(
            flows.attend, *visit([set()]), flows.step(LAYOUT, site=LATER)
        )


# --- noise and heads -------------------------------------------------------------------------------------------------


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


# --- references ------------------------------------------------------------------------------------------------------


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


# --- refusals --------------------------------------------------------------------------------------------------------


def test_another_models_anchors_are_refused() -> None:
    modifier = restriction(detectors=(detector(heads=4, width=2),))
    with pytest.raises(
        SteeringError, match="4 heads of width 2, as the anchors of blade have, found 2 heads of width 4"
    ):
        modifier(flows.attend, *visit([MARKED]), flows.step(LAYOUT))
    with pytest.raises(
        SteeringError, match="expected anchors of one model, found 2 heads of width 4 and 4 heads"
    ):
        restriction(detectors=(detector(), detector(heads=4, width=2)))


def test_scores_that_are_not_finite_are_refused() -> None:
    q, k, v = visit([MARKED])
    v[0, 0, 5] = torch.nan
    with pytest.raises(SteeringError, match=r"single\.1\.attention at sigma 1: expected finite scores"):
        restriction()(flows.attend, q, k, v, flows.step(LAYOUT))


def test_an_overflow_after_restricting_is_refused() -> None:
    q, k, v = (x.half() for x in visit([set()]))
    v[:] = 6e4
    modifier = masked(core_of(MARKED)[None], renormalise=False, weights=Weights(safe=5.0))
    with pytest.raises(SteeringError, match=r"expected numbers that torch\.float16 can hold"):
        modifier(flows.attend, q, k, v, flows.step(LAYOUT, site=LATER))


def test_a_threshold_that_marks_everything_is_told() -> None:
    seen: list[FlowRecord] = []
    restriction(detectors=(detector(-1e3),))(
        flows.attend, *visit([MARKED]), flows.step(LAYOUT, observe=seen.append)
    )
    (warning,) = seen[0].warnings
    assert warning.startswith("The threshold -1000 of blade marks the whole picture at single.1.attention")


def test_pictures_of_another_size_in_one_run_are_refused() -> None:
    modifier, state = restriction(), FlowState()
    modifier(flows.attend, *visit([MARKED]), flows.step(LAYOUT, state=state))
    crop = flows.layout(3, (2, 5))
    for site in (flows.SITE, LATER):
        with pytest.raises(SteeringError, match=r"patches, as .*, found"):
            modifier(flows.attend, *visit([set()], crop), flows.step(crop, site=site, state=state))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RestrictFlow(), "either detectors and the attention site where they look, or masks"),
        (lambda: restriction(site=None), "found 1 detectors, no site, no masks"),
        (lambda: restriction(masks=torch.ones(1, 2, 2, dtype=torch.bool)), "1 detectors, a site, some masks"),
        (
            lambda: restriction(site=Site.parse("single.1.image")),
            "expected an attention site, such as single.10",
        ),
        (lambda: restriction(sites=frozenset({Site("text")})), "site text: expected an attention site"),
        (lambda: Noise(1.5), "noise: expected a share from 0 to 1"),
        (lambda: Noise(float("nan")), "noise: expected a share from 0 to 1"),
    ],
)
def test_settings_that_contradict_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        make()


def test_sites_that_the_model_lacks_are_refused() -> None:
    available = [Site.parse(f"single.{index}.attention") for index in range(4)]
    assert restriction().sites_among(available) == tuple(available)
    chosen = restriction(sites=frozenset({available[3]}))
    assert chosen.sites_among(available) == (available[1], available[3])
    with pytest.raises(SteeringError, match=r"single\.3\.attention: expected an attention of this model"):
        chosen.sites_among(available[:3])


def test_queries_that_do_not_fit_the_step_are_refused() -> None:
    q, k, v = visit([MARKED])
    for wrong in ((q, k, v, (0, 1)), (q[:, :, :5], k, v, (0,))):
        with pytest.raises(SteeringError, match=r"with R = . rows, and as many keys as queries"):
            restriction()(flows.attend, *wrong[:3], flows.step(LAYOUT, wrong[3]))
    with pytest.raises(SteeringError, match="at least 23 tokens, found 20"):
        restriction()(flows.attend, q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], flows.step(LAYOUT))


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
