"""Routing's terms agree with scipy and closed forms; rankings say what they lack."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering import Site, SteeringError
from steerdit.training.routing.alignment import (
    linear_cka,
    mean_cosine,
    semantic_alignment,
    spearman,
    stability,
)
from steerdit.training.routing.ranking import (
    PUBLISHED,
    Candidate,
    Terms,
    Weights,
    agreement,
    best_sites,
    rank,
    table,
)
from steerdit.training.routing.sample_means import (
    by_pair,
    cases_of,
    pair_differences,
    sample_means,
    update_directions,
)

scipy_stats = pytest.importorskip("scipy.stats")

SITES = [Site.parse(name) for name in ("text", "double.1.image", "single.0.image", "single.1.image")]
CANDIDATES = [Candidate(site, operator) for site in SITES for operator in ("repel", "blend")]
SEEDS = st.integers(0, 10_000)


class Sample(NamedTuple):
    label: str
    category: str | None = None
    pair: str | None = None
    seed: int = 0


class Tokens(NamedTuple):
    tokens: torch.Tensor
    sample: torch.Tensor
    sigma: torch.Tensor
    position: torch.Tensor


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 40), st.integers(1, 20))
def test_rank_correlation_is_scipys(seed: int, n: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, values + 1, n), rng.normal(size=n)
    expected = 0.0 if len(set(x)) == 1 else scipy_stats.spearmanr(x, y).statistic
    assert spearman(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(3, 12), st.integers(1, 6), st.integers(1, 6))
def test_alignments_are_what_their_definitions_say(seed: int, n: int, d: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, p))
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, abs=1e-9)

    def cosines(rows: np.ndarray) -> list[float]:
        return [u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in itertools.combinations(rows, 2)]

    if d > 1 and p > 1:
        expected = scipy_stats.spearmanr(cosines(x), cosines(y)).statistic
        assert semantic_alignment(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, abs=1e-6)
    assert mean_cosine(list(torch.tensor(x))) == pytest.approx(np.mean(cosines(x)), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_alignments_see_through_turning_and_scaling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 5))
    turned = 3 * x @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert linear_cka(torch.tensor(x), torch.tensor(turned + 7)) == pytest.approx(1)
    assert semantic_alignment(torch.tensor(x), torch.tensor(turned)) == pytest.approx(1)


def test_alignments_of_what_is_constant_are_zero_and_of_what_is_missing_are_refused() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert linear_cka(x, torch.ones(5, 2)) == 0
    assert semantic_alignment(x, torch.zeros(5, 2)) == 0
    with pytest.raises(SteeringError, match=r"routing: binding.*found 2 and 2"):
        linear_cka(x[:2], x[:2])
    with pytest.raises(SteeringError, match=r"routing: semantic.*found 5 and 4"):
        semantic_alignment(x, x[:4])
    with pytest.raises(SteeringError, match=r"binding: activations.*NaN"):
        linear_cka(x * math.nan, x)


def test_stability_averages_over_the_kinds_that_have_two_estimates() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert stability([[a, a], [a, b], [a]]) == pytest.approx(0.5)
    with pytest.raises(SteeringError, match="stability"):
        stability([[a], [b], []])


def measured(seed: int) -> dict[Candidate, Terms]:
    rng = np.random.default_rng(seed)
    return {candidate: Terms(*rng.uniform(size=5).tolist()) for candidate in CANDIDATES}


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_scores_are_the_published_sum_of_scaled_terms(seed: int) -> None:
    terms = measured(seed)
    found = {line.candidate: line.score for line in rank(terms)}
    values = np.array([[t.semantic, t.binding, t.stability, t.seconds, t.change] for t in terms.values()])
    cost = 0.5 * values[:, 3] / values[:, 3].max() + 0.5 * values[:, 4] / values[:, 4].max()
    columns = np.column_stack([values[:, :3], cost])
    scaled = (columns - columns.min(0)) / (columns.max(0) - columns.min(0))
    expected = scaled @ [0.25, 0.35, 0.25, -0.15]
    np.testing.assert_allclose([found[c] for c in terms], expected, atol=1e-12)
    assert [line.score for line in rank(terms)] == sorted(found.values(), reverse=True)
    variant = rank(terms, Weights(0, 1, 0, 0))
    assert variant[0].candidate == max(terms, key=lambda c: terms[c].binding)


def test_equal_candidates_keep_the_order_of_a_forward_pass() -> None:
    ranking = rank(dict.fromkeys(reversed(CANDIDATES), Terms(0.5, 0.5, 0.5, 0.0, 0.0)))
    assert [line.candidate for line in ranking] == CANDIDATES
    assert {line.score for line in ranking} == {0.0}
    assert best_sites(ranking, 2) == tuple(SITES[:2])


@pytest.mark.parametrize("name", ["semantic", "binding", "stability", "seconds", "change"])
def test_a_missing_term_is_refused_by_name(name: str) -> None:
    terms = measured(0)
    terms[CANDIDATES[3]] = replace(terms[CANDIDATES[3]], **{name: None})
    with pytest.raises(SteeringError, match=rf"blend at double.1.image: {name}: .*not measured"):
        rank(terms)
    terms[CANDIDATES[3]] = replace(terms[CANDIDATES[3]], **{name: math.nan})
    with pytest.raises(SteeringError, match="found nan"):
        rank(terms)
    part = "cost" if name in ("seconds", "change") else name
    assert (
        len(
            rank(
                terms | {CANDIDATES[3]: replace(terms[CANDIDATES[3]], **{name: None})},
                replace(PUBLISHED, **{part: 0}),
            )
        )
        == 8
    )


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(SteeringError, match="at least one candidate"):
        rank({})
    with pytest.raises(SteeringError, match="weight cost"):
        rank(measured(0), Weights(cost=-0.15))
    with pytest.raises(SteeringError, match="repel, blend"):
        rank({Candidate(SITES[0], "erase"): Terms(1, 1, 1, 1, 1)})


def test_a_ranking_is_held_against_what_was_measured() -> None:
    ranking = rank(measured(1))
    gain = {line.candidate: line.score**3 for line in ranking}
    found = agreement(ranking, gain)
    assert found.spearman == pytest.approx(1)
    assert found.top_in_best_quarter
    turned = agreement(ranking, {candidate: -value for candidate, value in gain.items()})
    assert turned.spearman == pytest.approx(-1)
    assert not turned.top_in_best_quarter
    with pytest.raises(SteeringError, match=str(ranking[2].candidate)):
        agreement(ranking, {k: v for k, v in gain.items() if k != ranking[2].candidate})


def test_the_table_has_a_line_for_each_candidate() -> None:
    lines = table(
        rank({**measured(0), CANDIDATES[0]: Terms(1, 1, 1)}, replace(PUBLISHED, cost=0))
    ).splitlines()
    assert len(lines) == 1 + len(CANDIDATES)
    assert max(map(len, lines)) < 110
    assert any("text" in line and " - " in line for line in lines)


SAMPLES = [
    Sample(label, category, f"{category}{pair}", seed)
    for category in ("weapons", "alcohol")
    for pair in range(2)
    for seed in (3, 4)
    for label in ("unsafe", "safe")
] + [Sample("benign", None, None, 3), Sample("unsafe", "weapons", None, 4)]


def recorded(seed: int = 0) -> Tokens:
    rng = np.random.default_rng(seed)
    sample = rng.integers(0, len(SAMPLES), 900)
    return Tokens(
        torch.tensor(rng.normal(size=(900, 6))).float(),
        torch.tensor(sample),
        torch.tensor(rng.uniform(size=900)),
        torch.arange(900),
    )


def bucket(sigma: torch.Tensor) -> torch.Tensor:
    return torch.where(sigma > 0.9, -1, (sigma > 0.5).long())


def test_sample_means_and_differences_are_those_of_loops() -> None:
    whole = recorded()
    stream = [Tokens(*(part[at : at + 77] for part in whole)) for at in range(0, 900, 77)]
    means = sample_means(stream, len(SAMPLES), 2, bucket)
    number = bucket(whole.sigma)

    def mean(sample: int, level: int) -> torch.Tensor:
        return whole.tokens[(whole.sample == sample) & (number == level)].mean(0)

    for sample in range(len(SAMPLES)):
        for level in range(2):
            torch.testing.assert_close(means.values[sample, level], mean(sample, level))
    cases = cases_of(SAMPLES)
    at, found = pair_differences(means, cases)
    assert [SAMPLES[i].label for i in at.tolist()] == ["unsafe"] * 8
    for row, unsafe in enumerate(at.tolist()):
        safe = SAMPLES.index(SAMPLES[unsafe]._replace(label="safe"))
        torch.testing.assert_close(found.values[row, 1], mean(safe, 1) - mean(unsafe, 1))
    ids, averaged = by_pair(found, cases.pair[at])
    assert len(ids) == 4
    torch.testing.assert_close(averaged[0], found.values[:2].mean((0, 1)))


def test_update_directions_move_unsafe_tokens_towards_the_rest_or_their_rewrites() -> None:
    means, cases = sample_means([recorded()], len(SAMPLES), 2, bucket), cases_of(SAMPLES)
    for operator in ("repel", "blend"):
        assert [len(kind) for kind in update_directions(operator, means, cases)] == [2, 2, 2]
    unsafe = torch.tensor([s.label == "unsafe" and s.category != "weapons" for s in SAMPLES])
    rest = torch.tensor([s.label != "unsafe" for s in SAMPLES])
    left_out = update_directions("repel", means, cases)[2][0]
    expected = means.values[rest].flatten(0, 1).mean(0) - means.values[unsafe].flatten(0, 1).mean(0)
    torch.testing.assert_close(left_out, expected)
    _, differences = pair_differences(means, cases)
    second = [i for i, s in enumerate(s for s in SAMPLES if s.label == "unsafe" and s.pair) if s.seed == 4]
    torch.testing.assert_close(
        update_directions("blend", means, cases)[0][1], differences.values[second].mean((0, 1))
    )


def test_recordings_without_tokens_or_pairs_are_refused() -> None:
    with pytest.raises(SteeringError, match="tokens of the site"):
        sample_means([], 3, 2, bucket)
    alone = [sample._replace(pair=None) for sample in SAMPLES]
    with pytest.raises(SteeringError, match="found 0 pairs"):
        pair_differences(sample_means([recorded()], len(SAMPLES), 2, bucket), cases_of(alone))
    assert update_directions(
        "blend", sample_means([recorded()], len(SAMPLES), 2, bucket), cases_of(alone)
    ) == [[], [], []]
