"""What RestrictFlow refuses: settings, masks, models and pictures that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.groups import Weights
from steerdit.steering.flow.modifier import RestrictFlow
from steerdit.steering.flow.noise import Noise
from steerdit.steering.flow.restrict import Way
from steerdit.steering.flow.step import FlowState
from steerdit.steering.sites import Site

from . import flows
from .restrictions import LATER, LAYOUT, MARKED, core_of, detector, masked, restriction, visit


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


def test_an_overflow_of_widened_queries_is_refused() -> None:
    q, k, v = (x.half() for x in visit([set()]))
    q[:] = 6e4
    modifier = masked(core_of(MARKED)[None], way=Way.DIMENSIONS)
    with pytest.raises(SteeringError, match=r"expected numbers that torch\.float16 can hold"):
        modifier(flows.attend, q, k, v, flows.step(LAYOUT, site=LATER))


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
