"""Short ways to recordings of the tiny models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerdit.steering.sites import Site, select_sites
from steerdit.training.recordings import PromptRow, Recording, Sample, Settings, samples_of
from steerdit.training.recordings.run import record

from .tiny import CONTEXT, GRID, POOLED

SETTINGS = Settings(
    steps=3,
    height=16 * GRID[0],
    width=16 * GRID[1],
    buckets=(0.0, 0.5, 1.0),
    tokens_per_image=5,
    dtype="float32",
    batch=2,
    samples_per_shard=3,
)
SITES = {
    "flux": "text, double.0.text, double.1.image, single.1.*",
    "sd3": "text, joint.0.text, joint.1.image, joint.2.image",
}
CLIP_TOKENS = {"flux": 0, "sd3": 77}
PADDING = 4


class Said:
    """Random text states of texts: as many tokens as words and an end mark, then padding."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.encoded: list[str] = []

    def fingerprint(self) -> str:
        return hashlib.sha256(self.family.encode()).hexdigest()

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        self.encoded.append(text)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        draw = torch.Generator().manual_seed(seed)
        length = CLIP_TOKENS[self.family] + len(text.split()) + 1 + PADDING
        tokens = torch.randn(1, length, CONTEXT[self.family], generator=draw)
        return tokens, torch.randn(1, POOLED, generator=draw)

    def places(self, text: str) -> list[int]:
        words = len(text.split()) + 1
        clip = list(range(min(words + 1, CLIP_TOKENS[self.family])))
        return [*clip, *range(CLIP_TOKENS[self.family], CLIP_TOKENS[self.family] + words)]


PROMPTS = (
    PromptRow("a knife on a table", "unsafe", "weapons", "1"),
    PromptRow("a spoon on a table", "safe", "weapons", "1"),
    PromptRow("a bloody hand", "unsafe", "bloody", "2"),
    PromptRow("a hand", "safe", "bloody", "2"),
    PromptRow("a cat asleep in the long grass", "benign"),
)


def samples(seeds: Sequence[int] = (1, 2)) -> tuple[Sample, ...]:
    """Ten samples of texts with 2 to 7 words."""
    return samples_of(PROMPTS, seeds)


def sites_of(model: Any, family: str, expression: str | None = None) -> tuple[Site, ...]:
    from steerdit.host.attach import diffusion_model
    from steerdit.host.families import family_of

    dit = diffusion_model(model)
    return select_sites(expression or SITES[family], family_of(dit).sites(dit))


def recorded(
    model: Any,
    family: str,
    folder: Path,
    *,
    sites: str | None = None,
    said: Sequence[Sample] | None = None,
    shard: tuple[int, int] = (0, 1),
    interrupted: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> Recording | None:
    """What `record` gives for a tiny model."""
    return record(
        model,
        Said(family),
        samples() if said is None else said,
        sites_of(model, family, sites),
        replace(SETTINGS, **changes),
        folder,
        shard=shard,
        interrupted=interrupted,
        progress=progress,
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
