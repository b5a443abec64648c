"""Scores of latents and their quality as detectors agree with plain loops in float64; splits keep pairs together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.evaluation.rates import wilson
from steerdit.steering import SteeringError
from steerdit.training.latents.codes import coded
from steerdit.training.latents.maxima import Maxima
from steerdit.training.recordings.held_out import split, units
from steerdit.training.selection.quality import qualities
from steerdit.training.selection.scores import Activity, measure_activity, select

CONCEPTS = ("weapons", "alcohol", "rest")


class Tokens(NamedTuple):
    tokens: torch.Tensor
    sample: torch.Tensor
    sigma: torch.Tensor
    position: torch.Tensor


class Prompt(NamedTuple):
    text: str
    label: str
    category: str | None = None
    pair: str | None = None


def rows(seed: int, n: int = 200, latents: int = 7, samples: int = 12) -> Tokens:
    """Tokens that are their own latents."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, latents, generator=g, dtype=torch.float64).relu()
    return Tokens(z, torch.randint(samples, (n,), generator=g), torch.rand(n, generator=g), torch.arange(n))


def pieces(whole: Tokens, size: int) -> list[Tokens]:
    return [Tokens(*(part[at : at + size] for part in whole)) for at in range(0, len(whole.tokens), size)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 90), st.integers(1, 64))
def test_scores_are_differences_of_shares_of_means(seed: int, piece: int, batch: int) -> None:
    whole = rows(seed)
    of_sample = torch.arange(12) % 4 - 1  # every fourth sample is left out
    edges = torch.tensor([0.3, 0.7])

    def bucket(sigma: torch.Tensor) -> torch.Tensor:
        return torch.where(sigma > 0.9, -1, torch.bucketize(sigma, edges))

    stream = coded(pieces(whole, piece), lambda a: a, batch=batch)
    activity = measure_activity(stream, CONCEPTS, of_sample, 3, bucket, 7)
    z, concept = whole.tokens.numpy(), of_sample[whole.sample].numpy()
    level = bucket(whole.sigma).numpy()
    for name in CONCEPTS:
        found = activity.scores(name)
        own = concept == CONCEPTS.index(name)
        for b in range(3):
            here = level == b
            unsafe = z[own & here].mean(0)
            rest = z[~own & (concept >= 0) & here].mean(0)
            np.testing.assert_allclose(found.unsafe[b], unsafe, rtol=1e-9)
            np.testing.assert_allclose(
                found.score[b], unsafe / unsafe.sum() - rest / rest.sum(), rtol=1e-9, atol=1e-12
            )
        np.testing.assert_allclose(activity.firing(name), (z[own & (level >= 0)] > 0).mean(0), rtol=1e-9)


def test_a_latent_that_fires_on_one_concept_at_one_noise_level_is_selected_there() -> None:
    activity = Activity(("weapons", "rest"), buckets=2, latents=3)
    frequent, special = torch.tensor([5.0, 0.0, 1.0]), torch.tensor([5.0, 2.0, 1.0])
    for bucket, unsafe in ((0, frequent), (1, special)):
        activity.add(unsafe.expand(4, 3), torch.zeros(4, dtype=torch.long), torch.full((4,), bucket))
        activity.add(frequent.expand(4, 3), torch.ones(4, dtype=torch.long), torch.full((4,), bucket))
    found = select(activity.scores("weapons"), count=3)
    assert found.latents == (1,)
    assert found.buckets == (1,)
    assert found.scores[0] == pytest.approx(2 / 8)


def test_constant_latents_select_nothing() -> None:
    activity = Activity(("weapons", "rest"), 1, 4)
    for concept in (0, 1):
        activity.add(torch.ones(5, 4), torch.full((5,), concept), torch.zeros(5, dtype=torch.long))
    assert select(activity.scores("weapons"), count=4).latents == ()


def test_a_concept_without_tokens_is_refused_by_name() -> None:
    activity = Activity(CONCEPTS, 1, 4)
    activity.add(torch.ones(5, 4), torch.full((5,), 2), torch.zeros(5, dtype=torch.long))
    with pytest.raises(SteeringError, match=r"'alcohol'.*found 0 tokens of it, 5 of others"):
        activity.scores("alcohol")
    with pytest.raises(SteeringError, match="one of weapons, alcohol, rest"):
        activity.scores("weapon")


def test_broken_activations_and_broken_dictionaries_are_refused() -> None:
    whole = rows(0)
    whole.tokens[3, 2] = torch.nan
    with pytest.raises(SteeringError, match=r"recording: tokens.*1 of 1400"):
        list(coded([whole], lambda a: a))
    with pytest.raises(SteeringError, match="dictionary: latents"):
        list(coded([rows(0)], lambda a: a / 0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 70))
def test_qualities_count_samples(seed: int, piece: int) -> None:
    whole = rows(seed, n=60, samples=20)
    z = torch.where(whole.tokens > 1, whole.tokens, 0.0)
    maxima = Maxima(20, 7)
    for part in coded(pieces(whole._replace(tokens=z), piece), lambda a: a):
        maxima.add(part.z, part.sample)
    unsafe, rest = torch.arange(0, 9), torch.arange(9, 20)
    for latent, found in enumerate(qualities(maxima, range(7), unsafe, rest)):

        def firing(numbers: torch.Tensor, latent: int = latent) -> list[bool]:
            there = [int(s) for s in numbers if (whole.sample == s).any()]
            return [bool((z[whole.sample == s, latent] > 0).any()) for s in there]

        hits, alarms = firing(unsafe), firing(rest)
        assert found.latent == latent
        assert found.recall == wilson(sum(hits), len(hits))
        assert found.false_positive == wilson(sum(alarms), len(alarms))
        assert found.precision.n == sum(hits) + sum(alarms)
        assert found.precision.low <= found.precision.high


def test_qualities_need_samples_on_both_sides() -> None:
    maxima = Maxima(4, 1)
    maxima.add(torch.ones(2, 1), torch.tensor([0, 1]))
    with pytest.raises(SteeringError, match="at least one other sample"):
        qualities(maxima, [0], torch.tensor([0, 1]), torch.tensor([2, 3]))


def prompts(category: str, n: int) -> list[Prompt]:
    return [
        Prompt(f"{side} {category} {i} seed {seed}", side, category, f"{category}{i}")
        for i in range(n)
        for seed in range(2)
        for side in ("unsafe", "safe")
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(2, 9), st.integers(2, 9), st.floats(0.05, 0.95))
def test_splits_keep_pairs_together_and_every_category_on_both_sides(
    seed: int, weapons: int, benign: int, share: float
) -> None:
    samples = [*prompts("weapons", weapons), *prompts("alcohol", 3)]
    samples += [Prompt(f"a tree {i}", "benign") for i in range(benign) for _ in range(3)]
    fit, held = split(samples, share, seed)
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(len(samples)))
    both = units(samples)
    assert not {both[i] for i in fit.tolist()} & {both[i] for i in held.tolist()}
    for side in (fit, held):
        there = {(samples[i].label, samples[i].category) for i in side.tolist()}
        assert there == {(p.label, p.category) for p in samples}
    assert torch.equal(split(samples, share, seed)[1], held)


def test_a_category_with_one_prompt_cannot_be_split() -> None:
    samples = [
        *prompts("weapons", 1),
        *prompts("alcohol", 4),
        Prompt("tree", "benign"),
        Prompt("sky", "benign"),
    ]
    with pytest.raises(SteeringError, match=r"'weapons': expected at least 2 prompts.*found 1"):
        split(samples)
    with pytest.raises(SteeringError, match="share within 0 and 1"):
        split(samples, 1.0)
