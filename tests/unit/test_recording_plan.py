"""Which tokens are kept follows from the plan alone: bounded, spread evenly, alike for both sides of a pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering.errors import SteeringError
from steerdit.steering.modifiers import Step
from steerdit.steering.sites import Site
from steerdit.training.recordings import PromptRow, samples_of
from steerdit.training.recordings.gather import Gatherer, ShardInHand
from steerdit.training.recordings.manifest import LABELS, Manifest, bucket_of
from steerdit.training.recordings.plan import TokenPlan

from .recordings import SETTINGS, manifest, prompts

CONDITIONING, TEXT, IMAGE = Site("text"), Site.parse("double.1.text"), Site.parse("single.1.image")
SITES = {CONDITIONING: 4, TEXT: 6, IMAGE: 8}


def whole(cap: int | None = None, tokens: int | None = None, pairs: int = 3, benign: int = 4) -> Manifest:
    samples = samples_of(prompts(pairs, benign), (1, 2))
    return manifest(samples, SITES, replace(SETTINGS, cap=cap, tokens_per_image=tokens))


def lengths(of: Manifest) -> list[list[int]]:
    """Real places: two marks, words, and for every third sample a gap."""
    return [[0, 1, *range(2 + (i % 3 == 0), 4 + i % 4)] for i in range(len(of.samples))]


def plan(of: Manifest, image: int = 24, start: int = 2) -> TokenPlan:
    return TokenPlan(of, lengths(of), image, start)


counts = st.one_of(st.none(), st.integers(1, 60))


@settings(max_examples=60)
@given(counts, counts, st.integers(0, 4), st.integers(1, 5))
def test_caps_hold_and_nothing_below_them_is_lost(
    cap: int | None, tokens: int | None, pairs: int, benign: int
) -> None:
    of = whole(cap, tokens, pairs, benign)
    made = plan(of)
    buckets = np.array([bucket_of(sigma, of.settings.buckets) for sigma in of.sigmas])
    for site in SITES:
        found = made.counts(site)
        for label in LABELS:
            rows = np.array([s.label == label for s in of.samples])
            for bucket in (0, 1):
                steps = np.flatnonzero(buckets == bucket)[: 1 if site == CONDITIONING else None]
                kept = found[np.ix_(rows, steps)]
                available = [
                    min(
                        24 if site == IMAGE else len([p for p in places if site == TEXT or p >= 2]),
                        tokens or 999,
                    )
                    for places, one in zip(lengths(of), rows)
                    if one
                ]
                wanted = sum(available) * len(steps)
                assert kept.sum() == min(wanted, cap or wanted)
                # Who has more to give gives at most one token less than anybody.
                if kept.size and cap is not None and wanted > cap:
                    least = kept[kept < np.array(available)[:, None]].min()
                    assert kept.max() <= least + 1


@settings(max_examples=60)
@given(counts, counts)
def test_places_are_real_distinct_and_rising(cap: int | None, tokens: int | None) -> None:
    of = whole(cap, tokens)
    made = plan(of)
    for sample, real in enumerate(lengths(of)):
        for step in range(len(of.sigmas)):
            for site, known in (
                (TEXT, real),
                (CONDITIONING, [p - 2 for p in real if p >= 2]),
                (IMAGE, range(24)),
            ):
                places = made.places(site, sample, step).tolist()
                assert len(places) == made.counts(site)[sample, step]
                assert places == sorted(set(places))
                assert set(places) <= set(known)


@settings(max_examples=60)
@given(counts, counts)
def test_pairs_keep_the_same_places(cap: int | None, tokens: int | None) -> None:
    of = whole(cap, tokens)
    made, real = plan(of), lengths(of)
    by_side = {(s.pair, s.seed, s.label): i for i, s in enumerate(of.samples) if s.pair}
    for (pair, seed, label), i in by_side.items():
        if label == "unsafe":
            j = by_side[pair, seed, "safe"]
            for step in range(len(of.sigmas)):
                assert made.places(IMAGE, i, step).tolist() == made.places(IMAGE, j, step).tolist()
                a, b = (set(made.places(TEXT, n, step).tolist()) for n in (i, j))
                common = set(real[i]) & set(real[j])
                assert len(a & b) == min(len(a & common), len(b & common))
                assert len(a & common) == min(len(a), len(common))


def test_a_plan_depends_on_each_sample_alone() -> None:
    # Without a cap, more prompts change nothing for those that are there.
    short, long = whole(tokens=5), whole(tokens=5, benign=9)
    a, b = (TokenPlan(of, [list(range(7))] * len(of.samples), 24) for of in (short, long))
    for number, sample in enumerate(short.samples):
        other = long.samples.index(sample)
        for step in range(4):
            for site in (TEXT, IMAGE):
                assert a.places(site, number, step).tolist() == b.places(site, other, step).tolist()


def test_places_are_drawn_evenly() -> None:
    rows = [PromptRow(f"benign {i}", "benign") for i in range(400)]
    of = manifest(samples_of(rows, (1,)), SITES, replace(SETTINGS, tokens_per_image=6))
    made = TokenPlan(of, [[0, 1, 2]] * 400, 24)
    drawn = np.bincount(
        np.concatenate([made.places(IMAGE, sample, step) for sample in range(400) for step in range(4)]),
        minlength=24,
    )
    expected = 400 * 4 * 6 / 24
    # χ² with 23 degrees of freedom is below 49.7 in 999 of 1000 cases.
    assert ((drawn - expected) ** 2 / expected).sum() < 49.7
    other = TokenPlan(replace(of, settings=replace(of.settings, seed=1)), [[0, 1, 2]] * 400, 24)
    assert made.places(IMAGE, 0, 0).tolist() != other.places(IMAGE, 0, 0).tolist()


def visited(made: TokenPlan, number: int, sites: tuple[Site, ...] = (TEXT, IMAGE)) -> ShardInHand:
    """A shard whose samples have passed the sites at every noise level, with tokens that say where they were."""
    hand = ShardInHand(made, number)
    gatherer = Gatherer(lambda step, samples: None)
    gatherer.shard = hand
    size = hand.stop - hand.first
    gatherer.samples = list(range(size))
    for sigma in made.manifest.sigmas:
        for site in sites:
            values = torch.arange(size)[:, None] * 1000 + torch.arange(24)
            tokens = (values[..., None] + sigma).expand(size, 24, SITES[site]).clone()
            assert gatherer(tokens, Step(site, sigma, tuple(range(size)))) is tokens
            tokens.zero_()  # the host goes on writing into its own
    return hand


def test_what_is_gathered_is_what_was_planned() -> None:
    of = manifest(None, {TEXT: 6, IMAGE: 8}, replace(SETTINGS, tokens_per_image=3))
    made = TokenPlan(of, lengths(of), 24)
    for number, (first, _) in enumerate(of.ranges()):
        rows = visited(made, number).rows()
        for site in (TEXT, IMAGE):
            at = rows[site]
            assert len(at.tokens) == made.rows(number)[site]
            expected = (at.sample - first) * 1000 + at.position + at.sigma
            assert torch.equal(at.tokens, expected[:, None].expand_as(at.tokens).float())
            labels = list(zip(at.sample.tolist(), (-at.sigma).tolist(), at.position.tolist()))
            assert labels == sorted(set(labels))


def test_a_second_visit_and_levels_between_those_of_the_schedule_change_nothing() -> None:
    of = manifest(None, {IMAGE: 8})
    made = TokenPlan(of, lengths(of), 24)
    hand = visited(made, 0, (IMAGE,))
    before = hand.rows()[IMAGE].tokens.clone()
    hand.take(IMAGE, of.sigmas[0], torch.full((3, 24, 8), 7.0), [0, 1, 2])
    hand.take(IMAGE, 0.6, torch.full((3, 24, 8), 7.0), [0, 1, 2])
    assert torch.equal(hand.rows()[IMAGE].tokens, before)


def test_a_level_that_was_never_visited_is_refused() -> None:
    of = manifest(None, {IMAGE: 8})
    hand = ShardInHand(TokenPlan(of, lengths(of), 24), 1)
    with pytest.raises(
        SteeringError, match="sample 3: expected a call of the model at sigma 1 of the schedule"
    ):
        hand.rows()


def test_fewer_tokens_than_planned_are_refused() -> None:
    of = manifest(None, {IMAGE: 8})
    hand = ShardInHand(TokenPlan(of, lengths(of), 24), 0)
    with pytest.raises(SteeringError, match="expected at least 24 tokens, as planned, found 23"):
        hand.take(IMAGE, 1.0, torch.zeros(1, 23, 8), [0])
