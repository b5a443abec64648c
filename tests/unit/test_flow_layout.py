"""Masks on the picture's grid fall on references of other sizes; layouts that cannot be are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.layout import FlowLayout, TokenGrid, onto

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(SIZES, SIZES, st.integers(0, 2**31))
def test_a_mask_keeps_what_is_marked_and_its_place(
    size: tuple[int, int], other: tuple[int, int], seed: int
) -> None:
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(seed)) > 0.7
    found = onto(mask, other)
    assert found.shape == (2, *other)
    assert torch.equal(found.flatten(1).any(1), mask.flatten(1).any(1))
    for number, row, column in found.nonzero().tolist():  # some marked patch overlaps each one that is found
        top, bottom = row * size[0] // other[0], -((-(row + 1) * size[0]) // other[0])
        left, right = column * size[1] // other[1], -((-(column + 1) * size[1]) // other[1])
        assert mask[number, top:bottom, left:right].any()


@given(SIZES, st.integers(1, 4), st.integers(0, 2**31))
def test_a_finer_grid_repeats_each_patch(size: tuple[int, int], times: int, seed: int) -> None:
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) > 0.5
    finer = onto(mask, (size[0] * times, size[1] * times))
    assert torch.equal(finer, mask.repeat_interleave(times, 0).repeat_interleave(times, 1))
    assert torch.equal(onto(finer, size), mask)


def test_a_mask_of_everything_or_nothing_stays_so() -> None:
    for value in (True, False):
        assert (onto(torch.full((5, 7), value), (3, 9)) == value).all()


def test_a_layout_knows_its_spans() -> None:
    layout = FlowLayout(slice(0, 5), TokenGrid(5, 2, 3), (TokenGrid(11, 1, 4), TokenGrid(15, 2, 2)))
    assert layout.tokens == 19
    assert [grid.span for grid in layout.references] == [slice(11, 15), slice(15, 19)]
    layout.require(20)
    assert layout == FlowLayout(slice(0, 5), TokenGrid(5, 2, 3), layout.references)
    assert len({layout, FlowLayout(slice(0, 5), TokenGrid(5, 2, 3), layout.references)}) == 1


def test_a_picture_may_come_first_and_stand_alone() -> None:
    assert FlowLayout(slice(6, 9), TokenGrid(0, 2, 3)).tokens == 9
    assert FlowLayout(slice(0, 0), TokenGrid(0, 2, 3)).tokens == 6


def test_sequences_that_lost_their_references_are_refused() -> None:
    layout = FlowLayout(slice(0, 5), TokenGrid(5, 2, 3), (TokenGrid(11, 2, 2),))
    with pytest.raises(
        SteeringError, match=r"expected at least 15 tokens, found 11\..*a cache of reference latents"
    ):
        layout.require(11)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowLayout(slice(0, 6), TokenGrid(5, 2, 3)), "streams that do not overlap"),
        (lambda: FlowLayout(slice(0, 5), TokenGrid(5, 2, 3), (TokenGrid(4, 1, 1),)), "do not overlap"),
        (lambda: FlowLayout(slice(None, 5), TokenGrid(5, 2, 3)), "with start and stop"),
        (lambda: TokenGrid(0, 0, 3), "at least one token"),
        (lambda: TokenGrid(-1, 2, 3), "at least one token"),
    ],
)
def test_layouts_that_cannot_be_are_refused(make: object, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        make()  # type: ignore[operator]
