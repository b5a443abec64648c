"""Probes, masks and directions agree with scipy, linear programming and plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.evaluation.roc import area_under_roc
from steerdit.steering import SteeringError
from steerdit.training.contrasts.counterfactuals import (
    both_sides,
    cross,
    directions,
    flips,
    gradient_masks,
    select_flips,
    smallest_masks,
)
from steerdit.training.contrasts.probe import Probe, accuracy, fit_probe
from steerdit.training.contrasts.separation import compare

scipy_optimize = pytest.importorskip("scipy.optimize")
scipy_stats = pytest.importorskip("scipy.stats")


def pairs(seed: int, n: int = 60, d: int = 8, shift: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unsafe and safe rows that lie apart along two coordinates."""
    rng = np.random.default_rng(seed)
    safe = rng.normal(size=(n, d)) * np.linspace(0.5, 3, d)
    unsafe = safe + 0.3 * rng.normal(size=(n, d))
    unsafe[:, :2] += shift * rng.uniform(0.2, 1, size=(n, 2))
    return torch.tensor(unsafe), torch.tensor(safe)


def test_the_probe_is_scipys_logistic_regression() -> None:
    unsafe, safe = pairs(0)
    unsafe = unsafe[:40]  # the sides weigh the same however many rows they have
    x = np.concatenate([unsafe, safe])
    weight = np.concatenate([np.full(40, 0.5 / 40), np.full(60, 0.5 / 60)])
    mean = weight @ x
    deviation = np.sqrt(weight @ (x - mean) ** 2)
    z, sign = (x - mean) / deviation, np.where(np.arange(100) < 40, 1, -1)

    def loss(theta: np.ndarray) -> float:
        return (
            weight @ np.logaddexp(0, -sign * (z @ theta[:-1] + theta[-1])) + 0.005 * theta[:-1] @ theta[:-1]
        )

    best = scipy_optimize.minimize(loss, np.zeros(9), tol=1e-12).x
    found = fit_probe(unsafe, safe, ridge=0.01)
    np.testing.assert_allclose(found.weight, best[:-1] / deviation, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.logit(safe[:5]), (z @ best[:-1] + best[-1])[40:45], rtol=1e-3, atol=1e-4)


def test_the_probe_fits_under_inference_mode_and_judges_samples() -> None:
    with torch.inference_mode():
        unsafe, safe = pairs(1, shift=6)
        probe = fit_probe(unsafe, safe)
    sample = torch.arange(60) // 3
    found = accuracy(probe, unsafe, safe, sample, sample)
    assert found.n == 40
    assert found.value > 0.9


def test_a_constant_coordinate_gets_no_weight() -> None:
    unsafe, safe = pairs(2)
    unsafe[:, 5] = safe[:, 5] = 7.3
    assert fit_probe(unsafe, safe).weight[5] == 0


@pytest.mark.parametrize(
    ("unsafe", "safe", "message"),
    [
        (torch.ones(3, 4), torch.ones(3, 4), "rows that differ, found 6 equal rows"),
        (torch.ones(0, 4), torch.ones(3, 4), "unsafe activations: expected at least one row"),
        (torch.ones(3, 4), torch.full((3, 4), math.nan), "safe activations: expected finite numbers"),
    ],
)
def test_a_probe_needs_two_sides_that_differ(unsafe: torch.Tensor, safe: torch.Tensor, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        fit_probe(unsafe, safe)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 8))
def test_the_smallest_mask_is_that_of_linear_programming(seed: int, need: float) -> None:
    gain = np.random.default_rng(seed).normal(size=6)
    m = smallest_masks(torch.tensor(gain)[None], torch.tensor([need], dtype=torch.float64))[0].numpy()
    assert ((m >= 0) & (m <= 1)).all()
    best = scipy_optimize.linprog(np.ones(6), A_ub=-gain[None], b_ub=[-need], bounds=[(0, 1)] * 6)
    if best.status == 2:  # no mask is enough: all that helps is taken
        np.testing.assert_array_equal(m, (gain > 0).astype(float))
    else:
        assert m @ gain == pytest.approx(need)
        assert m.sum() == pytest.approx(best.fun, rel=1e-6, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 5), st.floats(0, 0.5))
def test_gradient_masks_cross_exactly_or_stay_short(seed: int, steps: int, penalty: float) -> None:
    rng = np.random.default_rng(seed)
    gain = torch.tensor(rng.normal(size=(20, 6)))
    need = torch.tensor(rng.uniform(0.1, 4, size=20))
    m = gradient_masks(gain, need, steps, penalty)
    assert bool(((m >= 0) & (m <= 1)).all())
    reached = (m * gain).sum(1)
    assert bool((reached <= need * (1 + 1e-9)).all())
    crossed = reached > need * (1 - 1e-9)
    smallest = smallest_masks(gain, need)
    assert bool((m.sum(1) >= smallest.sum(1) - 1e-9)[crossed].all())
    assert bool(((smallest * gain).sum(1) > need * (1 - 1e-9))[crossed].all())


@pytest.mark.parametrize("masks", [smallest_masks, gradient_masks])
def test_crossing_points_lie_on_the_boundary_within_the_pair(masks: object) -> None:
    unsafe, safe = pairs(3, n=5000)
    probe = fit_probe(unsafe, safe)
    found = cross(probe, unsafe, safe, margin=0.1, masks=masks)  # type: ignore[arg-type]
    logit, start = probe.logit(found.points), probe.logit(unsafe)
    moved = found.flipped & (found.size > 0)
    assert moved.float().mean() > 0.5
    torch.testing.assert_close(logit[moved], torch.full_like(logit[moved], -0.1), rtol=0, atol=1e-6)
    low, high = torch.minimum(unsafe, safe), torch.maximum(unsafe, safe)
    assert bool(((found.points >= low - 1e-9) & (found.points <= high + 1e-9)).all())
    still = found.size == 0
    assert torch.equal(found.points[still], unsafe[still])
    ratio = (1 / (1 + np.exp(logit.numpy()))) / (1 / (1 + np.exp(-start.numpy())))
    np.testing.assert_allclose(found.weight, np.clip(ratio, 0.1, 10), rtol=1e-6)


def test_directions_are_the_plain_and_the_weighted_mean() -> None:
    unsafe, safe = pairs(4)
    weight = torch.tensor(np.random.default_rng(0).uniform(0.1, 10, 60))
    found = directions(unsafe, safe, weight)
    difference = (safe - unsafe).numpy()
    np.testing.assert_allclose(found.plain, difference.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.weighted, np.average(difference, 0, weight), rtol=1e-9)
    torch.testing.assert_close(directions(unsafe, safe, torch.full((60,), 3.0))[1], found.plain)


def test_the_latent_that_means_unsafe_is_the_one_that_flips() -> None:
    unsafe, safe = pairs(5, shift=8)
    probe = fit_probe(unsafe, safe)
    found = cross(probe, unsafe, safe)
    start = probe.logit(unsafe)

    def encode(a: torch.Tensor) -> torch.Tensor:
        """The boundary itself, one that always fires, and its opposite."""
        logit = probe.logit(a)
        return torch.stack([logit.relu(), torch.ones_like(logit), (-logit).relu()], 1)

    flipped = flips(encode, unsafe, found, batch=7)
    moved = (found.flipped & (found.size > 0)).numpy()
    share = np.average(start.numpy()[moved] > 0, weights=found.weight.numpy()[moved])
    np.testing.assert_allclose(flipped.off, [share, 0, 0], atol=1e-9)
    np.testing.assert_allclose(flipped.on, [0, 0, share], atol=1e-9)
    assert select_flips(flipped, 3) == [0]


def test_both_sides_of_the_crossing_are_on_both_sides() -> None:
    unsafe, safe = pairs(6, shift=8)
    probe = fit_probe(unsafe, safe)
    found = cross(probe, unsafe, safe, margin=0.0)
    before, behind = probe.logit(both_sides(unsafe, found)).chunk(2)
    assert bool((before > 0).all())
    assert bool((behind < 0).all())


def test_pairs_that_do_not_differ_never_cross() -> None:
    unsafe, safe = pairs(7)
    found = cross(fit_probe(unsafe, safe), safe + 50, safe + 50)
    with pytest.raises(SteeringError, match="none of 60 that crosses"):
        both_sides(safe, found)
    with pytest.raises(SteeringError, match="none of 60 that crosses"):
        flips(lambda a: a, safe, found)


def test_unpaired_rows_are_refused() -> None:
    unsafe, safe = pairs(8)
    probe = Probe(torch.ones(8, dtype=torch.float64), 0.0)
    with pytest.raises(SteeringError, match=r"found \[60, 8\] and \[59, 8\]"):
        cross(probe, unsafe, safe[:-1])
    with pytest.raises(SteeringError, match="pairs"):
        directions(unsafe[:0], safe[:0], torch.ones(0))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 30))
def test_the_area_is_that_of_mann_and_whitney(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 9, n).astype(float), rng.integers(0, 9, m).astype(float)
    expected = scipy_stats.mannwhitneyu(a, b).statistic / (n * m)
    ones = torch.ones(n), torch.ones(m)
    assert area_under_roc(torch.tensor(a), torch.tensor(b), *ones) == pytest.approx(expected)
    repeated = area_under_roc(torch.tensor(np.repeat(a, 3)), torch.tensor(b), torch.ones(3 * n), ones[1])
    assert area_under_roc(torch.tensor(a), torch.tensor(b), 3 * ones[0], ones[1]) == pytest.approx(repeated)


def test_a_better_direction_compares_as_better() -> None:
    unsafe, safe = pairs(9, n=300)
    sample = torch.arange(300) // 5
    good = (safe - unsafe).mean(0)
    found = compare(
        type(directions(unsafe, safe, torch.ones(300)))(torch.ones(8), good), unsafe, safe, sample
    )
    assert found.difference.low > 0
    assert found.weighted.low <= found.weighted.value <= found.weighted.high
    assert found.difference.value == pytest.approx(found.weighted.value - found.plain.value)
