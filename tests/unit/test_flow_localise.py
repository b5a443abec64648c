"""Regions: morphology against scipy's, and what the choice of components promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from torch import Tensor

from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.localise import EDITING, Selection, around, localise, marks_everything
from steerdit.steering.flow.morphology import closed, components, dilated, filled

EIGHT = np.ones((3, 3), bool)

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


def spiral(size: int) -> Tensor:
    """One path that winds inwards: the longest way for a label to go."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    row = column = 0
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    heading = 0
    mask[0, 0] = True
    while True:
        for _ in range(2):
            down, right = steps[heading]
            ahead = row + 2 * down, column + 2 * right
            near = row + down, column + right
            inside = 0 <= near[0] < size and 0 <= near[1] < size and not mask[near]
            beyond = 0 <= ahead[0] < size and 0 <= ahead[1] < size and mask[ahead]
            if inside and not beyond:
                row, column = near
                mask[row, column] = True
                break
            heading = (heading + 1) % 4
        else:
            return mask


@settings(deadline=None)
@given(masks, st.integers(0, 3))
def test_dilation_is_scipys(mask: np.ndarray, times: int) -> None:
    expected = ndimage.binary_dilation(mask, EIGHT, times) if times else mask
    assert torch.equal(dilated(torch.from_numpy(mask), times), torch.from_numpy(expected))


@settings(deadline=None)
@given(masks)
def test_closing_is_scipys_on_an_endless_plane(mask: np.ndarray) -> None:
    expected = ndimage.binary_closing(np.pad(mask, 2), EIGHT)[
        2:-2, 2:-2
    ]  # scipy takes patches away at the edge
    found = closed(torch.from_numpy(mask)).numpy()
    assert np.array_equal(found, expected)
    assert (found >= mask).all()


@settings(deadline=None)
@given(masks)
def test_holes_are_filled_as_scipy_does(mask: np.ndarray) -> None:
    assert np.array_equal(filled(torch.from_numpy(mask)).numpy(), ndimage.binary_fill_holes(mask))


@settings(deadline=None)
@given(masks, st.booleans())
def test_components_are_scipys(mask: np.ndarray, diagonal: bool) -> None:
    found = components(torch.from_numpy(mask), diagonal).numpy()
    expected, count = ndimage.label(mask, EIGHT if diagonal else None)
    pairs = set(zip(found.flatten().tolist(), expected.flatten().tolist()))
    assert len(pairs - {(0, 0)}) == count  # one name for one name, both ways
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)


def test_a_spiral_is_one_component() -> None:
    mask = spiral(63)
    assert len(components(mask).unique()) == 2
    assert len(components(mask, diagonal=False).unique()) == 2


def scipys(scores: np.ndarray, threshold: float, selection: Selection) -> np.ndarray:
    """The whole course once more, by scipy."""
    marked = scores >= threshold
    mask = ndimage.binary_closing(np.pad(marked, 2), EIGHT)[2:-2, 2:-2]
    labels, count = ndimage.label(ndimage.binary_fill_holes(mask), EIGHT)
    numbers = [
        one for one in range(1, count + 1) if (labels == one).sum() >= selection.smallest * scores.size
    ]
    mass = {one: np.maximum(scores - threshold, 0)[labels == one].sum() for one in numbers}
    core = np.zeros_like(marked)
    held = 0.0
    for place, one in enumerate(sorted(numbers, key=lambda one: -mass[one])):
        if place == (selection.top or len(numbers)):
            break
        if place and selection.mass_ratio is not None and held >= selection.mass_ratio * sum(mass.values()):
            break
        core |= labels == one
        held += mass[one]
    return core


@settings(deadline=None, max_examples=100)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 2**31),
    st.floats(-1, 1.5),
    st.none() | st.floats(0.01, 1),
    st.none() | st.integers(1, 4),
    st.floats(0, 0.2),
)
def test_a_region_is_what_scipy_finds(
    size: tuple[int, int],
    seed: int,
    threshold: float,
    ratio: float | None,
    top: int | None,
    smallest: float,
) -> None:
    scores = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    selection = Selection(ratio, top, smallest, ring=2)
    region = localise(scores, threshold, selection)
    expected = scipys(scores.numpy(), np.float32(threshold), selection)
    assert np.array_equal(region.core.numpy(), expected)
    assert not (region.core & region.ring).any()
    assert torch.equal(region.core | region.ring, dilated(region.core, 2))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(-5, 5))
def test_the_place_of_zero_plays_no_part(seed: int, shift: float) -> None:
    scores = torch.randint(0, 9, (8, 11), generator=torch.Generator().manual_seed(seed)).double()
    shift = round(shift * 8) / 8  # no rounding
    one, other = localise(scores, 6), localise(scores + shift, 6 + shift)
    assert torch.equal(one.core, other.core)


def test_nothing_over_the_threshold_is_an_empty_region() -> None:
    region = localise(torch.zeros(4, 6), 0.5)
    assert region.is_empty
    assert not region.ring.any()
    assert region.size == (4, 6)


def test_a_ring_of_nothing_is_none() -> None:
    assert localise(torch.ones(1, 1), 0.5, Selection(ring=0)).ring.sum() == 0


def test_editing_keeps_three() -> None:
    scores = torch.zeros(9, 21)
    for place, value in enumerate((4.0, 3.0, 2.0, 1.0)):
        scores[3:6, 5 * place + 1 : 5 * place + 3] = value
    core = localise(scores, 0.5, EDITING).core
    assert core[4].nonzero()[:, 0].tolist() == [1, 2, 6, 7, 11, 12]
    # 30 % of the mass: the first component holds 3.5 of 8 parts
    assert localise(scores, 0.5).core[4].nonzero()[:, 0].tolist() == [1, 2]


def test_equal_components_stay_together() -> None:
    scores = torch.zeros(3, 9)
    scores[1, [1, 7]] = 1.0
    assert localise(scores, 0.5).core[1].nonzero()[:, 0].tolist() == [1, 7]


def test_everything_marked_is_noticed() -> None:
    assert marks_everything(localise(torch.ones(6, 6), 0.5))
    assert not marks_everything(around(torch.zeros(6, 6, dtype=torch.bool), 1))


@pytest.mark.parametrize(
    "wrong", [{"mass_ratio": 0.0}, {"mass_ratio": 1.5}, {"top": 0}, {"smallest": 1.0}, {"ring": -1}]
)
def test_figures_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SteeringError, match="selection of components: expected a mass ratio above 0"):
        Selection(**wrong)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14),
        elements=st.floats(-2, 2, width=32),
    ),
    st.floats(-1, 1.75, width=32),
    st.floats(0, 1, width=32),
)
def test_marks_spread_as_far_as_scipys(scores: np.ndarray, threshold: float, spread: float) -> None:
    every = Selection(mass_ratio=None, smallest=0, spread=spread)
    found = localise(torch.from_numpy(scores), threshold, every).core
    marked = scores >= threshold
    wide = scores >= (spread * threshold if threshold > 0 else threshold)
    expected = torch.from_numpy(ndimage.binary_propagation(marked, EIGHT, mask=wide | marked))
    assert torch.equal(found, filled(closed(expected)))
    if threshold <= 0 or spread == 1 or not marked.any():
        assert torch.equal(
            found, localise(torch.from_numpy(scores), threshold, Selection(mass_ratio=None, smallest=0)).core
        )
