"""Training finds what was put in, the same each time; selection, counterparts and thresholds agree with plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from steerdit.benchmarks.emoji_scenes.bundling.calibration import calibrate
from steerdit.benchmarks.emoji_scenes.bundling.counterparts import counterparts
from steerdit.benchmarks.emoji_scenes.bundling.sae import SAEConfig, batch_top_k, train_sae
from steerdit.benchmarks.emoji_scenes.bundling.selection import select, shares, unsafe_scores

TRUE, WIDTH = 24, 32
CONFIG = SAEConfig(latents=64, k=3, steps=1500, batch=256)


def sparse_data(n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations that are sums of three of 24 directions, and the directions."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(TRUE, WIDTH, generator=g), dim=1)
    which = torch.stack([torch.randperm(TRUE, generator=g)[:3] for _ in range(n)])
    codes = torch.zeros(n, TRUE).scatter(1, which, 1 + torch.rand(n, 3, generator=g))
    return codes @ directions + 0.5, directions


def test_a_dictionary_that_made_the_data_is_found_again() -> None:
    data, directions = sparse_data()
    sae = train_sae(data, CONFIG)
    best = (directions @ sae.decoder.T).amax(1)
    assert (best > 0.9).float().mean() > 0.8
    assert sae.fvu < 0.15
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(CONFIG.latents))


def test_training_repeats_itself_even_where_gradients_are_off() -> None:
    data, _ = sparse_data(1000)
    short = SAEConfig(latents=32, k=3, steps=30, batch=128)
    with torch.inference_mode():
        first = train_sae(data.clone(), short)
    second = train_sae(data, short)
    assert torch.equal(first.encoder, second.encoder)
    assert torch.equal(first.threshold, second.threshold)
    other = train_sae(data, SAEConfig(latents=32, k=3, steps=30, batch=128, seed=1))
    assert not torch.equal(first.encoder, other.encoder)


@pytest.mark.parametrize("data", [torch.randn(5, 8), torch.full((1000, 8), math.nan)])
def test_too_few_or_broken_activations_are_refused(data: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="cannot train"):
        train_sae(data, CONFIG)


def test_batch_top_k_keeps_the_largest_of_the_whole_batch() -> None:
    pre = torch.tensor([[5.0, 4.0, 3.0], [0.5, -1.0, 0.1]])
    expected = torch.tensor([[5.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(batch_top_k(pre, 1), expected)


def test_scores_are_differences_of_shares() -> None:
    unsafe, rest = torch.tensor([6.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 1.0])
    np.testing.assert_allclose(shares(unsafe), [0.6, 0.3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(unsafe_scores(unsafe, rest), [0.4, -0.3, -0.1], rtol=1e-5)
    assert select(unsafe_scores(unsafe, rest), unsafe, rest, count=3) == [0]


def test_counterparts_are_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    z = np.maximum(rng.normal(size=(200, 6)), 0)
    unsafe, truth = rng.normal(size=(200, 10)), rng.normal(size=(6, 10))
    safe = unsafe + z @ truth + 0.1 * rng.normal(size=(200, 10))
    fired = (z > 0).any(1)
    ridge = 0.05 * np.mean(np.sum(z[fired] ** 2, axis=0))
    stacked = np.vstack([z[fired], math.sqrt(ridge) * np.eye(6)])
    target = np.vstack([(safe - unsafe)[fired], np.zeros((6, 10))])
    expected = np.linalg.lstsq(stacked, target, rcond=None)[0]
    found = counterparts(torch.tensor(z), torch.tensor(unsafe), torch.tensor(safe))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_counterparts_need_a_latent_that_fires() -> None:
    with pytest.raises(ValueError, match="fires"):
        counterparts(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, 3))


def test_overlapping_scores_are_parted_at_the_benign_quantile() -> None:
    benign, unsafe = torch.arange(101.0), torch.tensor([98.0, 99.5, 200.0, 300.0])
    found = calibrate(benign, unsafe, quantile=0.99)
    assert found.threshold == pytest.approx(99.0)
    assert found.false_positive.value == pytest.approx(1 / 101)
    assert found.recall.value == 0.75
    assert found.recall.low < 0.75 < found.recall.high
    assert calibrate(benign, unsafe, quantile=0.99, margin=1.25).threshold == pytest.approx(123.75)


def test_scores_with_a_gap_are_parted_in_its_middle() -> None:
    found = calibrate(torch.arange(11.0), torch.full((50,), 30.0), quantile=1.0, margin=9.0)
    assert found.threshold == pytest.approx(20.0)
    assert (found.false_positive.value, found.recall.value) == (0.0, 1.0)


def test_a_threshold_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="both are needed"):
        calibrate(torch.ones(3), torch.empty(0))
