"""The reference kernels are their equations, in any shape, and write into nothing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit import kernels

shapes = st.tuples(
    st.integers(1, 3), st.integers(0, 4), st.integers(1, 6), st.integers(1, 7)
)  # rows, length, d, S
seeds = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b))


@given(seeds, shapes)
@settings(deadline=None)
def test_encode_selected(seed: int, shape: tuple[int, int, int, int]) -> None:
    r, length, d, s = shape
    x, rows, bias, threshold = (
        draw(seed, r, length, d),
        draw(seed + 1, s, d),
        draw(seed + 2, s),
        draw(seed + 3, s),
    )
    z = kernels.encode_selected(x, rows, bias, threshold)
    assert z.shape == (r, length, s)
    for index in torch.cartesian_prod(*map(torch.arange, z.shape)).reshape(-1, 3).tolist():
        pre = dot(x[index[0], index[1]], rows[index[2]]) + float(bias[index[2]])
        expected = pre if pre > float(threshold[index[2]]) else 0.0
        assert abs(float(z[tuple(index)]) - expected) < 1e-9


@given(seeds, shapes, st.integers(1, 8))
@settings(deadline=None)
def test_encode_topk_keeps_the_k_largest(seed: int, shape: tuple[int, int, int, int], k: int) -> None:
    r, length, d, s = shape
    x, rows, bias = draw(seed, r, length, d), draw(seed + 1, s, d), draw(seed + 2, s)
    z = kernels.encode_topk(x, rows, bias, k)
    every = kernels.encode_selected(x, rows, bias, torch.zeros(s))
    for code, full in zip(z.reshape(-1, s), every.reshape(-1, s)):
        largest = sorted(full.tolist(), reverse=True)[:k]
        assert sorted(code.tolist(), reverse=True)[: len(largest)] == largest
        assert all(float(kept) in (0.0, float(value)) for kept, value in zip(code, full))
        assert int((code > 0).sum()) == sum(value > 0 for value in largest)


@given(seeds, shapes, st.floats(-3, 3), st.booleans())
@settings(deadline=None)
def test_steer_selected(
    seed: int, shape: tuple[int, int, int, int], strength: float, keep_norm: bool
) -> None:
    r, length, d, s = shape
    x, rows = draw(seed, r, length, d), draw(seed + 1, s, d)
    z = draw(seed + 2, r, length, s).clamp(min=0) * (draw(seed + 3, r, length, 1) > 0)
    before = x.clone(), z.clone(), rows.clone()
    steered = kernels.steer_selected(x, z, rows, strength, keep_norm)
    assert all(torch.equal(now, then) for now, then in zip((x, z, rows), before))
    for token, code, found in zip(x.reshape(-1, d), z.reshape(-1, s), steered.reshape(-1, d)):
        if not code.any():
            assert torch.equal(found, token)
            continue
        expected = torch.stack([token[i] + strength * dot(code, rows[:, i]) for i in range(d)])
        if keep_norm:
            expected = expected * (dot(token, token) / dot(expected, expected)) ** 0.5
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_keeping_the_norm_of_what_vanishes_gives_zero_and_not_nan() -> None:
    x = torch.tensor([[3.0, 0.0]])
    steered = kernels.steer_selected(x, torch.tensor([[3.0]]), torch.tensor([[1.0, 0.0]]), -1.0, True)
    assert torch.equal(steered, torch.zeros(1, 2))


def test_decode() -> None:
    z, rows, bias = draw(1, 2, 3), draw(2, 3, 4), draw(3, 4)
    expected = torch.stack([sum((code[f] * rows[f] for f in range(3)), bias) for code in z])
    assert torch.allclose(kernels.decode(z, rows, bias), expected)


def test_a_nan_in_the_activation_stays_visible_in_every_code() -> None:
    x = torch.tensor([[float("nan"), 1.0]])
    z = kernels.encode_selected(x, torch.ones(3, 2), torch.zeros(3), torch.full((3,), 0.5))
    assert z.isnan().all()
