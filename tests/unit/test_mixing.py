"""Counterfactual tokens stand near the boundary, and in each batch as often as said, the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steerdit.steering import SteeringError
from steerdit.training.dictionaries.config import TrainingConfig
from steerdit.training.dictionaries.data import of_recording
from steerdit.training.mixing import crossing_tokens, with_tokens
from steerdit.training.probe import fit_probe

from .planted import AXES, SITE, WIDTH, prompts, recording

CONFIG = TrainingConfig(batch=64, held_out=0.2, expansion=4)


def test_crossing_tokens_lie_nearer_to_the_boundary_than_real_ones(tmp_path: Path) -> None:
    recorded = recording(tmp_path / "recording")
    tokens = crossing_tokens(recorded, SITE, CONFIG)
    assert tokens.shape[1] == WIDTH
    assert len(tokens) % 2 == 0
    pairs = recorded.pairs(SITE)
    probe = fit_probe(pairs.unsafe, pairs.safe)
    planted = (pairs.unsafe[:, list(AXES.values())].amax(1) > 4).nonzero()[:, 0]
    assert probe.logit(tokens).abs().median() < probe.logit(pairs.unsafe[planted]).abs().median()
    with pytest.raises(SteeringError, match="unsafe prompts with safe rewrites"):
        crossing_tokens(recording(tmp_path / "benign", prompts(0)), SITE, CONFIG)


def test_a_share_of_each_batch_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    data = of_recording(recording(tmp_path / "recording"), SITE, CONFIG)
    marked = torch.full((5, WIDTH), 99.0) + torch.arange(5)[:, None]
    mixed = with_tokens(data, marked, 0.25, seed=3)
    assert torch.equal(mixed.start, data.start)
    assert torch.equal(mixed.held, data.held)
    for plain, batch in zip(data.batches(2, 0), mixed.batches(2, 0), strict=True):
        count = round(0.25 * len(plain))
        assert torch.equal(batch[: len(plain) - count], plain[count:])
        assert bool((batch[len(plain) - count :] >= 99).all())
        assert len(batch) == len(plain)
    whole = list(mixed.batches(1, 0))
    for a, b in zip(whole[2:], mixed.batches(1, 2), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(whole[0][-4:], whole[1][-4:])
    for tokens, share in ((marked[:0], 0.1), (marked[:, :3], 0.1), (marked, 1.0)):
        with pytest.raises(SteeringError, match="training mix"):
            with_tokens(data, tokens, share)
