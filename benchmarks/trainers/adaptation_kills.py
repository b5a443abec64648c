"""Claim f of adaptation: killed by SIGKILL at random points and started again, it ends with the same decoder."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...training.adaptation.domains import adapt_sae
from ...training.adaptation.terms import AdaptationConfig
from ...training.dictionaries import process
from ...training.dictionaries.config import TrainingConfig
from ...training.dictionaries.job import Job, finished, prepare
from ...training.dictionaries.result import TrainedSAE
from ...training.recordings import Recording
from ..results import Claim, at_least
from .training_kills import SITE, synthetic

SEED = 33
TRAINING = TrainingConfig(expansion=8, k=16, batch=1024, steps=60, warmup=10)
CONFIG = AdaptationConfig(steps=650, batch=512)
"""With checkpoints every 200 steps, and one at the end."""


def kills(
    folder: Path, points: int, config: AdaptationConfig = CONFIG
) -> tuple[dict[str, Claim], list[dict[str, Any]]]:
    """The share of adaptations, each killed once at a random step, that end as the undisturbed one, to the bit."""
    recording = synthetic(folder / "recording")
    job = Job.of(recording, SITE, config=TRAINING, device="cpu", threads=1)
    prepare(folder / "sae", job)
    process.run(folder / "sae")
    sae = finished(folder / "sae")
    assert sae is not None
    whole = _adapted(sae, recording, folder / "whole", config)
    draw, rows = random.Random(SEED), list[dict[str, Any]]()
    for point in range(points):
        step = draw.randrange(1, config.steps)
        _kill(sae, recording, folder / f"killed-{point}", config, step)
        again: list[int] = []
        decoder = _adapted(sae, recording, folder / f"killed-{point}", config, again)
        rows.append(
            {"killed_at_step": step, "went_on_at": again[0], "same": bool(torch.equal(decoder, whole))}
        )
    share = sum(row["same"] for row in rows) / points
    return {"f.adapt": at_least(share, 1.0, points)}, rows


def _adapted(
    sae: TrainedSAE,
    recording: Recording,
    folder: Path,
    config: AdaptationConfig,
    seen: list[int] | None = None,
    kill: int | None = None,
) -> Tensor:
    """The adapted decoder; ``seen`` gets the number of each step that is made, ``kill`` is the last one."""

    def progress(step: int, steps: int) -> None:
        if seen is not None:
            seen.append(step)
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    found = adapt_sae(
        sae,
        recording,
        recording,
        config,
        lesson="safe side",
        method="steps",
        checkpoints=folder,
        progress=progress,
    )
    assert found.sae.adapted is not None
    return found.sae.adapted


def _kill(sae: TrainedSAE, recording: Recording, folder: Path, config: AdaptationConfig, step: int) -> None:
    """Adapts in a process of its own, which is gone after so many steps."""
    child = os.fork()
    if child == 0:
        try:
            _adapted(sae, recording, folder, config, kill=step)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
