"""Counterfactual tokens stand near the boundary, and in each batch as often as said, the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerdit.steering import SteeringError
from steerdit.training.contrasts.probe import fit_probe
from steerdit.training.dictionaries import job
from steerdit.training.dictionaries.config import TrainingConfig
from steerdit.training.dictionaries.data import of_recording
from steerdit.training.dictionaries.job import Job
from steerdit.training.dictionaries.mixing import crossing_tokens, with_tokens
from steerdit.training.dictionaries.training import Stopped, train

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
    other = next(with_tokens(data, marked, 0.25, seed=3, rank=1).batches(1, 0))  # each process draws its own
    assert not torch.equal(whole[0][-16:], other[-16:])
    for tokens, share in ((marked[:0], 0.1), (marked[:, :3], 0.1), (marked, 1.0)):
        with pytest.raises(SteeringError, match="training mix"):
            with_tokens(data, tokens, share)


def test_a_job_trains_on_the_mix_and_is_another_than_without(tmp_path: Path) -> None:
    recorded = recording(tmp_path / "recording")
    config = TrainingConfig(
        batch=64, held_out=0.2, latents=24, k=3, steps=12, checkpoint_every=5, warmup=2, rate=1e-3
    )
    plain, mixed = (
        Job.of(recorded, SITE, config=config, device="cpu", threads=1, counterfactuals=share)
        for share in (0.0, 0.25)
    )
    assert plain.identity != mixed.identity
    assert "counterfactuals" not in plain.text()  # as jobs were written before there was a mix
    for asked in (plain, mixed):
        assert Job.parse(asked.text(), "job.json") == asked
    folder = tmp_path / "mixed"
    job.prepare(folder, mixed)
    with pytest.raises(SteeringError, match="differs in counterfactuals"):
        job.prepare(folder, plain)
    calls = iter(range(100))
    with pytest.raises(Stopped):
        job.run(folder, stop=lambda: next(calls) == 6)
    found = job.run(folder)

    data = of_recording(recorded, SITE, config)
    data = with_tokens(data, crossing_tokens(recorded, SITE, config), 0.25, config.seed)
    expected = train(config, data)
    assert torch.equal(found.decoder, expected.decoder)
    assert torch.equal(found.encoder, expected.encoder)
    assert not torch.equal(found.decoder, train(config, of_recording(recorded, SITE, config)).decoder)
    for wrong in (1.0, -0.5, float("nan")):
        with pytest.raises(SteeringError, match="counterfactuals: expected a share of each batch"):
            replace(mixed, counterfactuals=wrong)
