"""Claim f of training: killed by SIGKILL at random points and started again, it ends with the same bytes."""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path
from typing import Any

import torch

from ...steering.sites import Site
from ...training.dictionaries import job, journal, process
from ...training.dictionaries.config import TrainingConfig
from ...training.dictionaries.job import Job
from ...training.recordings import (
    Manifest,
    ModelFingerprint,
    PromptRow,
    Recording,
    Settings,
    open_recording,
    samples_of,
)
from ...training.recordings.writer import RecordingWriter, SiteRows
from ..results import Claim, at_least

SEED = 32
SITE = Site.parse("double.1.image")
WIDTH, PROMPTS, TOKENS, SIGMAS = 64, 48, 64, (1.0, 0.75, 0.5, 0.25)
CONFIG = TrainingConfig(
    expansion=8, k=16, batch=1024, steps=400, checkpoint_every=40, log_every=5, evaluate_every=100
)


def kills(
    folder: Path, points: int, config: TrainingConfig = CONFIG
) -> tuple[dict[str, Claim], list[dict[str, Any]]]:
    """The share of trainings, each killed once at a random step, that end as the undisturbed one, journal included."""
    recording = synthetic(folder / "recording")
    whole = _prepared(folder / "whole", recording, config)
    process.run(whole)
    draw, rows = random.Random(SEED), list[dict[str, Any]]()
    for point in range(points):
        killed = _prepared(folder / f"killed-{point}", recording, config)
        step = draw.randrange(config.steps)
        found = _kill(killed, step, draw.random())
        process.run(killed)
        same = (killed / job.RESULT).read_bytes() == (whole / job.RESULT).read_bytes()
        rows.append({"killed_after_step": found, "same": same and _said(killed) == _said(whole)})
    share = sum(row["same"] for row in rows) / points
    return {"f.train": at_least(share, 1.0, points)}, rows


def synthetic(folder: Path) -> Recording:
    """A recording of random activations in shards of a few samples."""
    settings = Settings(
        steps=len(SIGMAS),
        height=128,
        width=128,
        buckets=(0.0, 0.5, 1.0),
        dtype="float32",
        samples_per_shard=6,
    )
    samples = samples_of([PromptRow(f"prompt {n}", "benign") for n in range(PROMPTS)], (1,))
    manifest = Manifest(
        ModelFingerprint("flux", "0" * 64), {SITE: WIDTH}, settings, SIGMAS, samples, {"by": "bench"}
    )
    each = len(SIGMAS) * TOKENS
    ranges = manifest.ranges()
    writer = RecordingWriter(folder, manifest, [{SITE: (stop - first) * each} for first, stop in ranges])
    for number, (first, stop) in enumerate(ranges):
        draw, count = torch.Generator().manual_seed(number), (stop - first) * each
        rows = SiteRows(
            torch.randn(count, WIDTH, generator=draw) @ torch.randn(WIDTH, WIDTH, generator=draw),
            torch.arange(first, stop).repeat_interleave(each).int(),
            torch.tensor(SIGMAS).repeat_interleave(TOKENS).repeat(stop - first),
            torch.arange(TOKENS).repeat(len(SIGMAS) * (stop - first)).int(),
        )
        writer.write(number, {SITE: rows})
    writer.finish()
    return open_recording(folder)


def _prepared(folder: Path, recording: Recording, config: TrainingConfig) -> Path:
    job.prepare(folder, Job.of(recording, SITE, config=config, device="cpu", threads=1))
    return folder


def _kill(folder: Path, step: int, part: float) -> int:
    """Kills a training some time after its journal has come to a step; says how far the journal was."""
    training = process.Training(folder)
    while training.running() and not any(line.step >= step for line in journal.read(folder)):
        time.sleep(0.01)
    time.sleep(0.05 * part)
    training.process.kill()
    training.process.wait()
    return max((line.step for line in journal.read(folder)), default=0)


def _said(folder: Path) -> list[journal.Line]:
    """The journal without what differs from run to run."""
    return [dataclasses.replace(line, tokens_per_second=0.0) for line in journal.read(folder)]
