"""Maps against closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.training.directions.maps import (
    Network,
    Ridge,
    Standard,
    fit_network,
    mean_cosine,
    orthogonal,
    principal,
    r_squared,
)

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@quick
@given(seeds, st.integers(2, 9), st.floats(0.1, 10))
def test_procrustes_recovers_a_rotation_and_its_scale(seed: int, d: int, scale: float) -> None:
    x = rows(40, d, seed)
    rotation = torch.linalg.qr(rows(d, d, seed + 1))[0]
    torch.testing.assert_close(orthogonal(x, scale * x @ rotation.T), scale * rotation)


@quick
@given(seeds)
def test_procrustes_is_scipys(seed: int) -> None:
    x, y = rows(30, 6, seed), rows(30, 6, seed + 1)
    r, sigma = scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())
    expected = r.T * sigma / np.square(x.numpy()).sum()
    np.testing.assert_allclose(orthogonal(x, y).numpy(), expected, atol=1e-10)


@quick
@given(seeds, st.integers(3, 6), st.integers(7, 10))
def test_procrustes_between_widths_keeps_angles_of_what_it_maps(seed: int, narrow: int, wide: int) -> None:
    isometry = torch.linalg.qr(rows(wide, narrow, seed))[0]
    x = rows(60, narrow, seed + 1)
    torch.testing.assert_close(orthogonal(x, x @ isometry.T), isometry)
    torch.testing.assert_close(orthogonal(x @ isometry.T, x), isometry.T)


def test_procrustes_with_few_rows_is_that_of_their_principal_components() -> None:
    low = torch.linalg.qr(rows(50, 4, 0))[0]
    rotation = torch.linalg.qr(rows(4, 4, 1))[0]
    z = rows(30, 4, 2) * torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    x, y = z @ low.T, z @ rotation.T @ low.T
    w = orthogonal(x, y, components=4)
    torch.testing.assert_close(x @ w.T, y)
    assert torch.linalg.matrix_rank(w) == 4
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    assert u.shape[1] >= 4
    torch.testing.assert_close(
        (principal(x, 2).T @ vt[:2].T).abs(), torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0
    )


@quick
@given(seeds, st.floats(1e-4, 10), st.integers(3, 25))
def test_ridge_is_the_closed_form_with_more_and_with_fewer_rows_than_channels(
    seed: int, strength: float, n: int
) -> None:
    x, y = rows(n, 7, seed), rows(n, 4, seed + 1)
    penalty = strength * x.square().sum() / 7
    expected = torch.linalg.solve(x.T @ x + penalty * torch.eye(7, dtype=torch.float64), x.T @ y).T
    torch.testing.assert_close(Ridge(x, y)(strength), expected)
    # The same as least squares on rows that stand for the penalty.
    stacked = torch.cat([x, penalty.sqrt() * torch.eye(7, dtype=torch.float64)])
    padded = torch.cat([y, torch.zeros(7, 4, dtype=torch.float64)])
    torch.testing.assert_close(Ridge(x, y)(strength), torch.linalg.lstsq(stacked, padded).solution.T)


def test_ridge_with_fewer_rows_than_channels_is_finite() -> None:
    x, y = rows(5, 40, 0), rows(5, 3, 1)
    assert torch.isfinite(Ridge(x, y)(1e-4)).all()


@quick
@given(seeds)
def test_standardised_rows_have_no_mean_and_unit_deviation(seed: int) -> None:
    x = rows(200, 5, seed) * torch.tensor([1, 10, 100, 0.1, 0], dtype=torch.float64) + 7
    z = Standard.of(x)(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.std(0)[:4], torch.ones(4, dtype=torch.float64))
    assert (z[:, 4] == 0).all()


def test_an_outlier_moves_neither_mean_nor_deviation_much() -> None:
    x = rows(200, 3, 0)
    clean = Standard.of(x)
    x[7, 1] = 1e6
    spoilt = Standard.of(x)
    torch.testing.assert_close(spoilt.scale, clean.scale, atol=0.2, rtol=0)
    assert float(spoilt(x)[7, 1]) < 10


def test_a_network_learns_what_no_matrix_can_and_stops_by_itself() -> None:
    x = rows(600, 3, 0)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].square()], dim=1)
    y = y - y.mean(0)
    calls: list[int] = []
    network = fit_network(
        x[:400], y[:400], x[400:500], y[400:500], hidden=64, rate=1e-2, progress=lambda i, _: calls.append(i)
    )
    linear = Ridge(x[:400], y[:400])(1e-4)
    assert r_squared(network(x[500:]).double(), y[500:]) > 0.8
    assert r_squared(x[500:] @ linear.T, y[500:]) < 0.3
    assert calls == sorted(calls)
    again = fit_network(x[:400], y[:400], x[400:500], y[400:500], hidden=64, rate=1e-2)
    assert torch.equal(again.hidden, network.hidden)


def test_a_network_learns_within_a_host_that_turned_gradients_off() -> None:
    with torch.inference_mode():
        x = rows(100, 3, 0)
        network = fit_network(x[:80], x[:80], x[80:], x[80:], hidden=16, epochs=2)
        assert torch.isfinite(network(x)).all()


@quick
@given(seeds)
def test_a_networks_step_is_the_mean_of_its_finite_differences(seed: int) -> None:
    d, h, out = 4, 6, 3
    network = Network(
        rows(h, d, seed), rows(1, h, seed + 1)[0], rows(out, h, seed + 2), rows(1, out, seed + 3)[0]
    )
    x, v = rows(10, d, seed + 4), rows(1, d, seed + 5)[0]
    expected = sum(network(row[None] + v)[0] - network(row[None])[0] for row in x) / len(x)
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(network.moved(x, v), expected)
    # For a small step it is the Jacobian's mean.
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda r: network(r[None])[0], row) for row in x]
    ).mean(0)
    torch.testing.assert_close(network.moved(x, 1e-6 * v) / 1e-6, jacobian @ v, atol=1e-4, rtol=1e-3)


def test_r_squared_and_cosine_of_known_cases() -> None:
    y = rows(50, 4, 0)
    assert r_squared(y, y) == 1
    assert r_squared(torch.zeros_like(y), y) == 0
    assert r_squared(2 * y, y) == pytest.approx(0)
    assert mean_cosine(2 * y, y) == pytest.approx(1)
    assert mean_cosine(-y, y) == pytest.approx(-1)
