"""A schedule is a range of noise levels, whatever the sampler does between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerdit.steering import Schedule, SteeringError

percents = st.floats(0.0, 1.0)


def to_sigma(percent: float) -> float:
    """A flow model's map, bent like FLUX's."""
    return 3 * (1 - percent) / (1 + 2 * (1 - percent))


@given(percents, percents, st.floats(0.001, 1.0))
def test_the_range_is_open_at_its_end(one: float, other: float, sigma: float) -> None:
    start, end = sorted((one, other))
    inside = to_sigma(start) >= sigma > to_sigma(end)
    if start > 0 and end < 1:
        assert Schedule(start, end).active(sigma, to_sigma) is inside


@given(st.floats(0.0, 1.5))
def test_the_whole_schedule_takes_every_call(sigma: float) -> None:
    assert Schedule().active(sigma, to_sigma)


@given(percents, st.floats(0.001, 1.0))
def test_two_halves_share_no_step_and_lose_none(middle: float, sigma: float) -> None:
    first, second = Schedule(0.0, middle), Schedule(middle, 1.0)
    assert first.active(sigma, to_sigma) + second.active(sigma, to_sigma) == 1


@given(percents, st.floats(0.0, 1.5))
def test_an_empty_range_never_acts(at: float, sigma: float) -> None:
    assert not Schedule(at, at).active(sigma, to_sigma)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)])
def test_other_ranges_are_refused(start: float, end: float) -> None:
    with pytest.raises(SteeringError, match="schedule"):
        Schedule(start, end)
