"""Gates have the thresholds of plain quantiles, and rates that count samples which had no part in setting them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.evaluation.rates import wilson
from steerdit.steering import SteeringError
from steerdit.training.gates.tails import UpperTail
from steerdit.training.gates.thresholds import (
    GateRule,
    Scores,
    calibrate,
    described,
    image_threshold,
    measure_scores,
    member_weights,
)
from steerdit.training.latents.codes import Coded
from steerdit.training.latents.maxima import Maxima

BENIGN, UNSAFE = torch.arange(0, 40), torch.arange(40, 60)
UNITS = [f"prompt {i // 2}" for i in range(60)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 200), st.integers(1, 60), st.floats(0.5, 1))
def test_the_upper_tail_has_the_quantiles_of_the_whole(
    seed: int, n: int, piece: int, quantile: float
) -> None:
    values = torch.tensor(np.random.default_rng(seed).exponential(size=(n, 3)).round(1)).float()
    tail = UpperTail(3, n, 0.5)
    for part in values.split(piece):
        tail.add(part)
    assert len(tail.largest) <= 0.5 * n + 2
    torch.testing.assert_close(tail.at(quantile), torch.quantile(values.double(), quantile, dim=0))


def test_a_tail_knows_what_it_has_forgotten() -> None:
    tail = UpperTail(1, 100, 0.9)
    with pytest.raises(SteeringError, match="found 0 numbers"):
        tail.at(0.95)
    tail.add(torch.rand(100, 1))
    with pytest.raises(SteeringError, match=r"from 0\.9 to 1"):
        tail.at(0.5)


def scores_of(best: torch.Tensor, rule: GateRule = GateRule()) -> Scores:
    """Scores of samples of one token each."""
    maxima, tail = Maxima(60, 1), UpperTail(1, 60, rule.quantile)
    maxima.add(best[:, None], torch.arange(60))
    tail.add(best[BENIGN, None])
    return Scores(("weapons",), maxima, tail)


def test_scores_are_weighted_sums_and_their_maxima() -> None:
    g = torch.Generator().manual_seed(0)
    z, sample = torch.rand(200, 3, generator=g), torch.randint(6, (200,), generator=g)
    benign = torch.tensor([True, False] * 3)
    weights = {"weapons": member_weights([4, 7, 9], [7, 9]), "alcohol": torch.tensor([2.0, 0.0, 0.5])}
    stream = [
        Coded(z[at : at + 30], sample[at : at + 30], torch.ones(30), torch.arange(30))
        for at in range(0, 200, 30)
    ]
    found = measure_scores(stream, weights, benign, 200, GateRule(quantile=0.9))
    expected = torch.stack([z[:, 1] + z[:, 2], 2 * z[:, 0] + 0.5 * z[:, 2]], dim=1)
    for one in range(6):
        torch.testing.assert_close(found.samples.best[one], expected[sample == one].amax(0))
    quantile = torch.quantile(expected[benign[sample]].double(), 0.9, dim=0)
    torch.testing.assert_close(found.benign_tokens.at(0.9), quantile, rtol=1e-6, atol=0)


def test_where_the_sides_lie_apart_the_gate_is_in_the_middle() -> None:
    best = torch.cat([torch.linspace(0, 1, 40), torch.full((20,), 5.0)])
    gate = calibrate(scores_of(best), "weapons", UNSAFE, BENIGN, UNITS, GateRule(quantile=1.0))
    assert (gate.image, gate.token) == (3.0, 1.0)
    assert gate.false_positive is not None
    assert gate.recall is not None
    assert (gate.false_positive.value, gate.recall.value) == (0.0, 1.0)
    low, high = wilson(0, 40).low, wilson(0, 40).high
    assert (gate.false_positive.low, gate.false_positive.high) == (low, high)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 7), st.sampled_from([0.8, 0.95, 1.0]))
def test_no_prompt_is_judged_by_a_threshold_that_it_has_set(seed: int, folds: int, quantile: float) -> None:
    rng = np.random.default_rng(seed)
    best = torch.tensor(np.concatenate([rng.exponential(size=40), 1 + rng.exponential(size=20)])).float()
    rule = GateRule(quantile, 1.1, folds)
    gate = calibrate(scores_of(best, rule), "weapons", UNSAFE, BENIGN, UNITS, rule)
    alarms = hits = 0
    values = best.numpy()
    benign_fold, unsafe_fold = np.arange(40) // 2 % folds, np.arange(20) // 2 % folds
    for fold in range(folds):
        benign, unsafe = values[:40][benign_fold != fold], values[40:][unsafe_fold != fold]
        highest, lowest = np.quantile(benign.astype(float), quantile), np.quantile(unsafe.astype(float), 0.01)
        threshold = (highest + lowest) / 2 if lowest > highest else highest * 1.1
        alarms += (values[:40][benign_fold == fold] > threshold).sum()
        hits += (values[40:][unsafe_fold == fold] > threshold).sum()
    for found, expected in (
        (gate.false_positive, wilson(int(alarms), 40)),
        (gate.recall, wilson(int(hits), 20)),
    ):
        assert found is not None
        assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
    assert gate.image == pytest.approx(image_threshold(best[BENIGN], best[UNSAFE], rule))


def test_thresholds_may_be_where_counterfactuals_cross() -> None:
    best = torch.cat([torch.linspace(0, 1, 40), torch.linspace(0.5, 5, 20)])
    crossing = torch.tensor([0.7, 0.9, 2.0])
    gate = calibrate(scores_of(best), "weapons", UNSAFE, BENIGN, UNITS, crossing=crossing)
    assert gate.image == gate.token == pytest.approx(0.9)
    assert gate.recall is not None
    assert gate.recall.value == pytest.approx(float((best[UNSAFE] > 0.9).float().mean()))
    with pytest.raises(SteeringError, match=r"'weapons'.*counterfactual"):
        calibrate(scores_of(best), "weapons", UNSAFE, BENIGN, UNITS, crossing=crossing[:0])


def test_a_category_with_one_prompt_is_refused_by_name() -> None:
    best = torch.ones(60)
    with pytest.raises(SteeringError, match=r"category 'weapons': .*2 unsafe prompts.*found 1"):
        calibrate(scores_of(best), "weapons", UNSAFE[:2], BENIGN, UNITS)
    with pytest.raises(SteeringError, match=r"category 'weapons': .*2 benign prompts.*found 0"):
        calibrate(scores_of(best), "weapons", UNSAFE, BENIGN[:0], UNITS)
    with pytest.raises(SteeringError, match="at least one latent"):
        described([], calibrate(scores_of(best), "weapons", UNSAFE, BENIGN, UNITS))


def test_samples_without_tokens_do_not_count() -> None:
    scores = scores_of(torch.cat([torch.zeros(40), torch.ones(20)]))
    scores.samples.tokens[UNSAFE[4:]] = 0
    gate = calibrate(scores, "weapons", UNSAFE, BENIGN, UNITS)
    assert gate.recall is not None
    assert (gate.recall.low, gate.recall.high) == (wilson(4, 4).low, wilson(4, 4).high)


@pytest.mark.parametrize("wrong", [{"quantile": 0.0}, {"margin": 0.5}, {"folds": 1}])
def test_rules_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SteeringError, match=f"gates: {next(iter(wrong))}"):
        GateRule(**wrong)  # type: ignore[arg-type]
