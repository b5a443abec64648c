"""One pass over a tensor finds what is not finite, and is not fooled by a sum that overflows."""

from __future__ import annotations

import pytest
import torch

from steerdit.steering.finite import all_finite, sum_is_finite

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_found(dtype: torch.dtype, wrong: float) -> None:
    x = torch.zeros(3, 5, 7, dtype=dtype)
    assert all_finite(x)
    x[1, 4, 3] = wrong
    assert not all_finite(x)
    assert not sum_is_finite(x)


def test_opposite_infinities_do_not_cancel() -> None:
    assert not all_finite(torch.tensor([torch.inf, -torch.inf, 1.0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finite_numbers_whose_sum_overflows_are_finite(dtype: torch.dtype) -> None:
    assert all_finite(torch.full((64,), torch.finfo(dtype).max, dtype=dtype))


def test_nothing_is_finite() -> None:
    assert all_finite(torch.empty(0, 4))
