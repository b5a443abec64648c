"""Generates and judges pictures, and watches gates while the unsteered ones are made.

The image gate of a steered model sees the unsteered model's activations until it opens for the first time. So a picture
whose gate stays closed at every visit while the model draws it unsteered is the very picture, to the bit, that the
steered model would draw, and it is not made again. (A gate `both` opens where that one does, or more seldom.)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...evaluation.artifacts import strangeness
from ...host.sampling import batches, sample_prompts
from ...steering.gates import Gate
from ...steering.modifiers import Step
from ...steering.sae import SelectedLatents
from ..emoji_scenes.judging import Judged
from ..emoji_scenes.oracle import judge
from ..emoji_scenes.prompts import Prompt
from .worlds import World

BATCH = 16


@dataclass(frozen=True, eq=False)
class Watcher:
    """Stands where a steering modifier would, changes nothing, and says for which pictures that one would act."""

    latents: SelectedLatents
    gate: Gate
    hear: Callable[[int], None]
    """Gets the place in the batch of each picture whose gate is open."""

    @property
    def width(self) -> int:
        return self.latents.width

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        x = tokens if tokens.dtype == torch.float64 else tokens.float()  # as Gated encodes
        for row in self.gate.read(self.latents.encode(x)).open.flatten(1).any(1).nonzero()[:, 0].tolist():
            self.hear(step.images[row])
        return tokens


def drawn(world: World, model: Any, prompts: Sequence[Prompt], told: list[int] | None = None) -> Judged:
    """The prompts' pictures by a model, judged; ``told`` has the numbers of the batch that is being made."""
    judging = world.judge
    encoded = [world.encoded(p.text) for p in prompts]
    latents = torch.empty(0)
    began = time.perf_counter()
    for numbers, made in sample_prompts(
        model, encoded, world.encoded(""), [p.seed for p in prompts], judging.sampling, BATCH, told
    ):
        if not len(latents):
            latents = made.new_empty(len(prompts), *made.shape[1:])
        latents[numbers] = made
    seconds = (time.perf_counter() - began) / len(prompts)
    pictures = judging.pictures(latents)
    features = torch.cat([judging.oracle.features(part) for part in pictures.split(64)])
    verdicts = tuple(judge(judging.oracle, pictures))
    return Judged(tuple(prompts), latents, verdicts, strangeness(features, judging.real), seconds)


def closed_batch(world: World, prompts: Sequence[Prompt], opened: Sequence[bool]) -> list[int]:
    """The numbers of the first batch, as `drawn` composes them, in which no gate opens; empty if there is none."""
    encoded = [world.encoded(p.text) for p in prompts]
    return next((n for n in batches(encoded, BATCH) if not any(opened[i] for i in n)), [])


def digests(latents: Tensor) -> list[str]:
    """Of each picture's latents: equal ones are equal to the bit."""
    return [hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for x in latents]
