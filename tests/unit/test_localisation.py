"""Thresholds of patch scores from benign and unsafe pictures; AUC against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.evaluation.roc import area_under_roc
from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.localise import Selection, localise
from steerdit.steering.flow.morphology import dilated
from steerdit.steering.flow.score import ScoreKind
from steerdit.training.flows.localisation import (
    Scored,
    calibrate,
    intersection_over_union,
    localisation_auc,
    peak,
)


def scores(seed: int, size: tuple[int, int] = (8, 9), unsafe: float | None = None) -> Scored:
    """Noise, and a raised block where it is unsafe."""
    g = torch.Generator().manual_seed(seed)
    found = torch.randn(size, generator=g)
    if unsafe is None:
        return Scored(found)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[2:5, 3:6] = True
    return Scored(found + unsafe * mask, mask)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12)
)
def test_auc_is_its_definition(inside: list[int], outside: list[int]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside]
    found = area_under_roc(torch.tensor(inside).float(), torch.tensor(outside).float())
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_auc_of_pictures_takes_benign_ones_as_outside() -> None:
    pictures = [
        Scored(torch.tensor([[2.0, 0.0]]), torch.tensor([[True, False]])),
        Scored(torch.tensor([[3.0, 1.0]])),
    ]
    assert localisation_auc(pictures) == pytest.approx(2 / 3)
    assert math.isnan(localisation_auc([Scored(torch.zeros(2, 2))]))
    assert math.isnan(localisation_auc([]))


def test_iou() -> None:
    one, other = torch.tensor([[True, True, False]]), torch.tensor([[False, True, True]])
    assert intersection_over_union(one, other) == pytest.approx(1 / 3)
    assert intersection_over_union(one, one) == 1.0
    assert intersection_over_union(~one & one, ~one & one) == 1.0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0, 0.3))
def test_the_peak_is_where_a_picture_ceases_to_be_marked(seed: int, smallest: float) -> None:
    selection, picture = Selection(smallest=smallest), scores(seed).scores
    level = peak(picture, selection)
    for value in picture.flatten().unique().tolist():
        assert localise(picture, value, selection).is_empty == (value > level)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**20), st.sampled_from([0.0, 0.1, 0.25]))
def test_no_more_benign_pictures_are_marked_than_allowed(seed: int, allowed: float) -> None:
    pictures = [scores(seed + n) for n in range(12)] + [scores(seed + 50 + n, unsafe=6.0) for n in range(8)]
    found = calibrate(pictures, ScoreKind.WHITENED, false_positive=allowed)
    marked = sum(not localise(p.scores, found.threshold).is_empty for p in pictures if p.mask is None)
    assert marked <= allowed * 12
    assert found.false_positive.value == pytest.approx(marked / 12)
    assert found.recall.value == 1.0
    assert found.recall.low < 1.0
    assert found.auc > 0.95
    assert found.iou > 0.6
    tighter = calibrate(pictures, ScoreKind.WHITENED, false_positive=0.0)
    assert tighter.threshold >= found.threshold


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**20), st.sampled_from([0.5, 0.9]))
def test_a_threshold_that_covers_enough_marks_less_beside_it(seed: int, covered: float) -> None:
    pictures = [scores(seed + n) for n in range(8)] + [scores(seed + 50 + n, unsafe=30.0) for n in range(6)]
    # What stands beside the unsafe patches looks a little like them, as it does in attention.
    beside = [
        Scored(p.scores + 10.0 * (dilated(p.mask) & ~p.mask), p.mask) if p.mask is not None else p
        for p in pictures
    ]
    lowest = calibrate(beside, ScoreKind.WHITENED, false_positive=0.0)
    found = calibrate(beside, ScoreKind.WHITENED, false_positive=0.0, covered=covered)
    inside = torch.cat([p.scores[p.mask] for p in beside if p.mask is not None])
    assert covered <= float((inside >= found.threshold).float().mean()) < covered + 0.1
    assert found.threshold > lowest.threshold
    assert found.false_positive.value <= lowest.false_positive.value
    assert found.iou > lowest.iou


@pytest.mark.parametrize("higher", [False, True])
def test_a_benign_picture_is_not_marked_by_a_tie_or_by_rounding(higher: bool) -> None:
    benign, mask = scores(3).scores, scores(3, unsafe=0.0).mask
    unsafe = benign - 5
    highest = benign.max()
    unsafe[3, 4] = highest.nextafter(torch.tensor(math.inf)) if higher else highest
    pictures = [Scored(benign), Scored(unsafe, mask)]
    if not higher:
        with pytest.raises(SteeringError, match="none of 1 above the threshold"):
            calibrate(pictures, ScoreKind.WHITENED, false_positive=0.0)
        return
    found = calibrate(pictures, ScoreKind.WHITENED, false_positive=0.0)
    assert localise(benign, found.threshold).is_empty
    assert not localise(unsafe, found.threshold).is_empty


def test_a_calibration_goes_into_a_bundle() -> None:
    pictures = [scores(n) for n in range(6)] + [scores(50 + n, unsafe=9.0) for n in range(6)]
    found = calibrate(pictures, ScoreKind.DOT)
    record = found.record(ScoreKind.DOT, several=True)
    assert (record.score, record.value, record.several) == ("dot", found.threshold, True)
    assert record.false_positive is not None
    assert record.false_positive.low <= record.false_positive.value <= record.false_positive.high
    assert record.auc == found.auc


def constant(value: float, mask: bool) -> Scored:
    return Scored(torch.full((4, 4), value), torch.ones(4, 4, dtype=torch.bool) if mask else None)


def spoiled() -> Tensor:
    return torch.zeros(4, 4).index_fill(0, torch.tensor([1]), math.nan)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([constant(0, False)], "found 1 benign and 0 unsafe ones"),
        ([constant(0, True)], "found 0 benign and 1 unsafe ones"),
        ([constant(1, False), constant(0, True)], "none of 1 above the threshold 1 that benign pictures set"),
        (
            [constant(0, False), constant(1, True)],
            r"found 0\.5, which marks everything in most unsafe pictures",
        ),
        ([constant(0, False), Scored(spoiled(), torch.ones(4, 4) > 0)], "expected finite scores, found NaN"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(pictures: list[Scored], message: str) -> None:
    with pytest.raises(SteeringError, match=f"threshold of the dot score: .*{message}"):
        calibrate(pictures, ScoreKind.DOT)
