"""What is ranked and what is compared with thresholds, chunk by chunk, is what torch finds in the whole matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.kernels import firing, keys, ranking

from .operands import KINDS, seeds

RANKED = st.sampled_from(sorted(keys.INTEGERS, key=str))


def ranked(pre: Tensor, k: int, step: int) -> ranking.Ranking:
    """What is found in a matrix of which so many rows come at a time."""
    found = ranking.Ranking(k, *pre.shape, pre.dtype)
    for rows in pre.split(step):
        found.add(rows)
    return found


@given(
    seeds,
    st.sampled_from(KINDS),
    RANKED,
    st.integers(1, 2500),
    st.integers(0, 20),
    st.integers(1, 40),
    st.sampled_from([3, 100, 512, 1000, 4000]),
    st.sampled_from([100, 1 << 20]),
)
@settings(deadline=None, max_examples=150)
def test_the_largest_are_those_of_a_stable_sort(
    seed: int,
    kind: Callable[..., Tensor],
    dtype: torch.dtype,
    n: int,
    tokens: int,
    k: int,
    step: int,
    hot: int,
) -> None:
    pre = kind(torch.Generator().manual_seed(seed), n, tokens).to(dtype).contiguous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "HOT_BYTES", hot)
        found = ranked(pre, min(k, n), step)
    assert found.extremes.finite
    values, indices = found.largest()
    expected = pre.T.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(indices, expected.indices[:, : min(k, n)])
    assert torch.equal(values, expected.values[:, : min(k, n)])


@pytest.mark.parametrize("dtype", keys.INTEGERS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 1e-7, -1e-7])
@pytest.mark.parametrize("step", [500, 3000])
def test_where_all_are_equal_the_first_are_the_largest(dtype: torch.dtype, value: float, step: int) -> None:
    found = ranked(torch.full((3000, 40), value, dtype=dtype), 20, step)
    assert found.extremes.finite
    assert torch.equal(found.largest()[1], torch.arange(20).expand(40, 20))


def test_what_comes_later_wins_where_it_is_larger() -> None:
    pre = torch.arange(3000.0)[:, None].expand(3000, 30).contiguous() - 1500
    for step in (400, 3000):
        assert torch.equal(ranked(pre, 5, step).largest()[1], torch.arange(2999, 2994, -1).expand(30, 5))
    steps = (pre / 600).round()  # all that comes later is larger and ties
    expected = steps.T.sort(dim=-1, descending=True, stable=True).indices[:, :20]
    assert torch.equal(ranked(steps, 20, 600).largest()[1], expected)


@given(
    seeds,
    st.sampled_from(KINDS),
    RANKED,
    st.integers(1, 700),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0]),
)
@settings(deadline=None, max_examples=80)
def test_a_ranking_sees_what_is_not_finite_wherever_it_is(
    seed: int, kind: Callable[..., Tensor], dtype: torch.dtype, n: int, tokens: int, k: int, value: float
) -> None:
    pre = kind(torch.Generator().manual_seed(seed), n, tokens).to(dtype).contiguous()
    pre[seed % n, seed % tokens] = value
    assert ranked(pre, min(k, n), 100).extremes.finite == bool(pre.isfinite().all())


@given(
    seeds,
    st.sampled_from(KINDS),
    RANKED,
    st.integers(0, 300),
    st.integers(0, 20),
    st.sampled_from([3, 100, 512]),
    st.sampled_from([100, 1 << 20]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([-torch.inf, -2.0, -1.0, -1e-4, -0.0, 0.0, 1e-9, 0.3, 1.0, 1e30, torch.inf, torch.nan]),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_what_is_above_its_threshold_is_what_torch_finds(
    seed: int, kind: Callable[..., Tensor], dtype: torch.dtype, n: int, tokens: int, step: int, hot: int,
    other: torch.dtype, value: float, single: bool,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    pre, theta = kind(generator, n, tokens).to(dtype).contiguous(), kind(generator, n).double()
    theta = torch.tensor(value) if single else theta.index_fill_(0, torch.arange(0, n, 3), value)
    theta = theta.to(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firing, "HOT_BYTES", hot)
        found = firing.Firing(theta, n, tokens, dtype)
        for rows in pre.split(step):
            found.add(rows)
    above = torch.gt(pre.T, theta)
    values, rows, counts = found.found()
    assert torch.equal(counts, above.sum(-1))
    assert torch.equal(rows, above.nonzero()[:, 1])
    assert torch.equal(values, pre.T[above])
