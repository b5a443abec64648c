"""Directions from pairs: the mean difference, its intervals, the probe and its AUROC."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering.errors import SteeringError
from steerdit.steering.formats.directions import GLOBAL
from steerdit.training.directions.estimate import (
    difference_in_means,
    estimate,
    estimate_directions,
    split_half,
)
from steerdit.training.directions.layers import auroc, discriminant, probe_auroc
from steerdit.training.directions.pairs import Pair, PromptPairs
from steerdit.training.directions.sources import token_means

from .encoders import Toy, meaning, pairs

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@quick
@given(seeds, st.integers(4, 30))
def test_the_direction_is_the_weighted_mean_of_differences(seed: int, n: int) -> None:
    unsafe, safe, weights = rows(n, 5, seed), rows(n, 5, seed + 1), rows(n, 1, seed + 2)[:, 0].abs()
    expected = np.average((safe - unsafe).numpy(), axis=0, weights=weights.numpy())
    np.testing.assert_allclose(difference_in_means(unsafe, safe, weights).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(estimate(unsafe, safe, weights, draws=10).vector.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(
        difference_in_means(unsafe, safe).numpy(), (safe - unsafe).mean(0).numpy(), atol=1e-6
    )


def test_weighing_a_pair_twice_is_having_it_twice() -> None:
    unsafe, safe = rows(6, 4, 0), rows(6, 4, 1)
    twice = difference_in_means(torch.cat([unsafe, unsafe[:1]]), torch.cat([safe, safe[:1]]))
    torch.testing.assert_close(difference_in_means(unsafe, safe, torch.tensor([2.0, 1, 1, 1, 1, 1])), twice)


def test_the_bootstrap_is_scipys() -> None:
    differences = rows(40, 3, 0) + 1
    found = estimate(torch.zeros_like(differences), differences, draws=4000)
    drawn = scipy.stats.bootstrap(
        (differences.numpy(),),
        lambda d, axis: np.linalg.norm(d.mean(axis=axis), axis=0),
        axis=0,
        n_resamples=4000,
        method="percentile",
        rng=0,
    ).confidence_interval
    np.testing.assert_allclose(found.norm_interval, (drawn.low, drawn.high), rtol=0.03)
    assert found.norm_interval[0] < float(found.vector.norm()) < found.norm_interval[1]


def test_noise_and_signal_are_told_apart() -> None:
    noise = rows(60, 50, 0)
    assert abs(split_half(noise)) < 0.15
    signal = estimate(torch.zeros(60, 50), noise + 3)
    assert signal.split_half > 0.95
    assert signal.cosine_low > 0.95
    assert estimate(torch.zeros(60, 50), noise).cosine_low < 0.9
    # Two halves of n pairs with a mean of squared length m and noise of total variance s: m / (m + 2 s / n).
    expected = (50 * 0.25) / (50 * 0.25 + 2 * 50 / 60)
    assert split_half(noise - noise.mean(0) + 0.5) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("unsafe", "safe", "weights", "said"),
    [
        (torch.zeros(3, 2), torch.ones(3, 2), None, "at least 4 pairs"),
        (torch.zeros(5, 2), torch.ones(4, 2), None, "of one width"),
        (torch.zeros(5, 2), torch.ones(5, 2), torch.zeros(5), "one at least above it"),
        (torch.zeros(5, 2), torch.ones(5, 2), -torch.ones(5), "5 weights from 0 up"),
        (torch.zeros(5, 2), torch.ones(5, 2), torch.ones(4), "5 weights"),
        (torch.ones(5, 2), torch.ones(5, 2), None, "a difference"),
    ],
)
def test_what_makes_no_direction_is_refused(
    unsafe: torch.Tensor, safe: torch.Tensor, weights: torch.Tensor | None, said: str
) -> None:
    with pytest.raises(SteeringError, match=said):
        estimate(unsafe, safe, weights)


def test_directions_of_an_encoder_have_each_category_and_leave_held_out_pairs_out() -> None:
    encoder, given_pairs = Toy("toy", 20, 0, noise=0.0), pairs()
    found = estimate_directions(encoder, 1, given_pairs)
    about = found.directions.about
    assert found.directions.names == ("bloody", "burning", GLOBAL)
    assert (about.width, about.encoder.name, about.encoder.layer) == (20, "toy", 1)
    assert about.encoder.fingerprint == encoder.fingerprint()
    kept = given_pairs.select(held_out=False)
    assert found.pairs_sha256 == kept.sha256
    assert found.evidence[GLOBAL].pairs == len(kept.pairs) < len(given_pairs.pairs)
    for risk, vector in zip(("bloody", "burning"), found.directions.vectors):
        unsafe = [p.unsafe for p in kept.pairs if p.category == risk]
        safe = [p.safe for p in kept.pairs if p.category == risk]
        means = [
            torch.stack([torch.stack([meaning(w) for w in text.split()]).mean(0) for text in texts]).mean(0)
            for texts in (unsafe, safe)
        ]
        torch.testing.assert_close(vector, (means[1] - means[0]) @ encoder.matrix.T, atol=1e-5, rtol=1e-4)
    everything = torch.stack([found.directions.vectors[0], found.directions.vectors[1]]).mean(0)
    torch.testing.assert_close(found.directions.vectors[2], everything)


def test_weights_of_pairs_are_used_and_few_pairs_name_their_category() -> None:
    encoder, given_pairs = Toy("toy", 20, 0, noise=0.0), pairs()
    kept = given_pairs.select(held_out=False).pairs
    only_burning = [float(pair.category == "burning") for pair in kept]
    with pytest.raises(SteeringError, match="category 'bloody': weights"):
        estimate_directions(encoder, 1, given_pairs, weights=only_burning)
    few = PromptPairs((*kept, Pair("new", "new", "a new cat", "a cat")))
    with pytest.raises(SteeringError, match="category 'new': pairs: expected at least 4 pairs"):
        estimate_directions(encoder, 1, few)


def test_texts_of_one_token_are_read_and_texts_of_none_refused() -> None:
    encoder = Toy("toy", 20, 0)
    one = token_means(encoder, ["cat", "cat dog"], (0, 1))
    assert one.shape == (2, 2, 20)
    assert torch.isfinite(one).all()
    with pytest.raises(SteeringError, match=r"toy: '': expected a text with at least one token"):
        token_means(encoder, ["cat", ""], (1,))
    with pytest.raises(SteeringError, match="toy: expected layers among the output, 0, 1, found 7"):
        token_means(encoder, ["cat"], (7,))


@quick
@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_auroc_is_mann_and_whitneys_u_with_ties(high: list[int], low: list[int]) -> None:
    expected = scipy.stats.mannwhitneyu(high, low).statistic / (len(high) * len(low))
    assert auroc(torch.tensor(high).double(), torch.tensor(low).double()) == pytest.approx(expected)


@quick
@given(seeds, st.floats(0.05, 0.9))
def test_the_discriminant_is_that_of_the_shrunk_covariance(seed: int, shrink: float) -> None:
    x, difference = rows(9, 6, seed), rows(1, 6, seed + 1)[0]
    covariance = x.T @ x / 9
    shrunk = (1 - shrink) * covariance + shrink * covariance.diagonal().mean() * torch.eye(
        6, dtype=torch.float64
    )
    torch.testing.assert_close(discriminant(x, difference, shrink), torch.linalg.solve(shrunk, difference))


def test_the_probe_judges_pairs_that_it_has_not_seen() -> None:
    noise = rows(40, 200, 0)
    # With more channels than pairs any probe fits what it sees; on others it is at chance.
    assert probe_auroc(noise, rows(40, 200, 1)) == pytest.approx(0.5, abs=0.2)
    assert probe_auroc(noise + 1, noise) > 0.99


def test_counterfactual_weights_are_an_option_that_keeps_the_direction_near() -> None:
    encoder, given_pairs = Toy("toy", 20, 0, noise=0.3), pairs()
    plain = estimate_directions(encoder, 1, given_pairs).directions.vectors
    weighted = estimate_directions(encoder, 1, given_pairs, counterfactual=True).directions.vectors
    assert not torch.equal(plain, weighted)
    assert torch.cosine_similarity(plain, weighted).min() > 0.9
