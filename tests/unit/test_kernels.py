"""The reference kernels are their equations, in any shape, and write into nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit import kernels

shapes = st.tuples(
    st.integers(1, 3), st.integers(0, 4), st.integers(1, 6), st.integers(1, 7)
)  # rows, length, d, S
seeds = st.integers(0, 10_000)


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", "reference")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coarse(seed: int, *shape: int) -> Tensor:
    """Whole numbers from -2 to 2, whose products tie."""
    return draw(seed, *shape).round().clamp(-2, 2)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b))


def pre_activations(token: Tensor, rows: Tensor, bias: Tensor) -> list[float]:
    return [dot(token, row) + float(b) for row, b in zip(rows, bias)]


def ranked(pre: list[float]) -> list[int]:
    """Latents from the largest to the smallest, of equal ones the lowest first."""
    return sorted(range(len(pre)), key=lambda f: (-pre[f], f))


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


@given(seeds, shapes, st.integers(1, 7), st.sampled_from([draw, coarse]))
@settings(deadline=None)
def test_encode_topk_and_membership(seed: int, shape: tuple[int, int, int, int], k: int, kind: type) -> None:
    r, length, d, n = shape
    x, rows, bias, k = kind(seed, r, length, d), kind(seed + 1, n, d), kind(seed + 2, n), min(k, n)
    values, indices = kernels.encode_topk(x, rows, bias, k)
    member = kernels.topk_membership(x, rows, bias, torch.arange(n), k)
    assert values.shape == indices.shape == (r, length, k)
    assert member.shape == (r, length, n)
    for token, value, index, is_in in zip(
        x.reshape(-1, d), values.reshape(-1, k), indices.reshape(-1, k), member.reshape(-1, n)
    ):
        pre = pre_activations(token, rows, bias)
        expected = ranked(pre)[:k]
        assert index.tolist() == expected
        assert is_in.nonzero()[:, 0].tolist() == sorted(expected)
        assert value.tolist() == pytest.approx([max(pre[f], 0.0) for f in expected], abs=1e-9)


@given(seeds, shapes, st.sampled_from([draw, coarse]))
@settings(deadline=None)
def test_encode_threshold(seed: int, shape: tuple[int, int, int, int], kind: type) -> None:
    r, length, d, n = shape
    x, rows, bias, threshold = (
        kind(seed, r, length, d),
        kind(seed + 1, n, d),
        kind(seed + 2, n),
        kind(seed + 3, n),
    )
    sparse = kernels.encode_threshold(x, rows, bias, threshold)
    width = sparse.values.shape[-1]
    assert sparse.counts.shape == (r, length)
    for token, value, index, count in zip(
        x.reshape(-1, d),
        sparse.values.flatten(0, 1),
        sparse.indices.flatten(0, 1),
        sparse.counts.ravel(),
    ):
        pre = pre_activations(token, rows, bias)
        fires = [f for f in range(n) if pre[f] > float(threshold[f])]
        padding = [0] * (width - len(fires))
        assert int(count) == len(fires)
        assert index.tolist() == fires + padding
        assert value.tolist() == pytest.approx([pre[f] for f in fires] + padding, abs=1e-9)
    assert width == (int(sparse.counts.max()) if sparse.counts.numel() else 0)
    if width:
        with pytest.raises(ValueError, match=f"capacity {width - 1} is too small: {width} latents"):
            kernels.encode_threshold(x, rows, bias, threshold, capacity=width - 1)
    wider = kernels.encode_threshold(x, rows, bias, threshold, capacity=width + 2)
    assert torch.equal(wider.values[..., :width], sparse.values)
    assert not wider.values[..., width:].any()


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


@given(seeds, shapes, st.floats(-3, 3), st.booleans())
@settings(deadline=None)
def test_encode_and_steer_is_one_after_the_other(
    seed: int, shape: tuple[int, int, int, int], strength: float, keep_norm: bool
) -> None:
    r, length, d, s = shape
    x, rows, bias, threshold = (
        draw(seed, r, length, d),
        draw(seed + 1, s, d),
        draw(seed + 2, s),
        draw(seed + 3, s),
    )
    z = kernels.encode_selected(x, rows, bias, threshold)
    expected = kernels.steer_selected(x, z, 2 * rows, strength, keep_norm)
    found = kernels.encode_and_steer(x, rows, bias, threshold, 2 * rows, strength, keep_norm)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@given(seeds, shapes, st.floats(-3, 3), st.booleans())
@settings(deadline=None)
def test_directions(seed: int, shape: tuple[int, int, int, int], strength: float, keep_norm: bool) -> None:
    r, length, d, s = shape
    x, direction = draw(seed, r, length, d), draw(seed + 1, d)
    basis = torch.linalg.qr(draw(seed + 2, d, min(s, d)))[0].T
    added = kernels.add_direction(x, direction, strength, keep_norm)
    without = kernels.project_out(x, basis, strength, keep_norm)
    for token, more, less in zip(x.reshape(-1, d), added.reshape(-1, d), without.reshape(-1, d)):
        for found, step in (
            (more, strength * direction),
            (less, -strength * sum((dot(token, b) * b for b in basis), torch.zeros(d).double())),
        ):
            expected = token + step
            if keep_norm and dot(expected, expected) < 1e-6:
                continue  # its direction is rounding
            if keep_norm:
                expected = expected * (dot(token, token) / dot(expected, expected)) ** 0.5
            assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [3.0, 3000.0])
def test_keeping_the_norm_of_what_vanishes_gives_zero_and_not_nan(size: float) -> None:
    x = torch.tensor([[size, 0.0]])
    steered = kernels.steer_selected(x, torch.tensor([[size]]), torch.tensor([[1.0, 0.0]]), -1.0, True)
    assert torch.equal(steered, torch.zeros(1, 2))
    assert torch.equal(kernels.add_direction(x, -x[0], 1.0, True), torch.zeros(1, 2))


@given(seeds, st.integers(0, 5), st.integers(1, 6), st.integers(0, 5))
@settings(deadline=None)
def test_decode(seed: int, tokens: int, n: int, k: int) -> None:
    values, rows, bias = draw(seed, tokens, k), draw(seed + 1, n, 4), draw(seed + 2, 4)
    indices = torch.randint(n, (tokens, k), generator=torch.Generator().manual_seed(seed))
    found = kernels.decode(values, indices, rows, bias)
    dense = torch.zeros(tokens, n).double().scatter_add(1, indices, values)
    assert torch.allclose(found, kernels.decode_selected(dense, rows, bias))
    for token, value, index in zip(found, values, indices):
        assert torch.allclose(token, sum((v * rows[i] for v, i in zip(value, index)), bias))


def test_a_nan_in_the_activation_stays_visible_in_every_code() -> None:
    x = torch.tensor([[float("nan"), 1.0]])
    z = kernels.encode_selected(x, torch.ones(3, 2), torch.zeros(3), torch.full((3,), 0.5))
    assert z.isnan().all()


def test_a_number_is_no_activation() -> None:
    for edit in (kernels.add_direction, kernels.project_out):
        with pytest.raises(ValueError, match=r"x must have the shape \(\.\.\., d\)"):
            edit(torch.tensor(1.0), torch.randn(3), 1.0)
