"""Draws the training scenes once, in shards: latents, text states, captions and labels, all from seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .codec import LinearCodec
from .scenes import SceneSource
from .text import TextEncoder, pooled

TOKENS = 24  # longest caption, in tokens; the few longer ones lose their end


def pictures(source: SceneSource, seeds: range) -> tuple[Tensor, list[str]]:
    """→ (B, 3, 128, 128) uint8 and captions."""
    scenes = [source.scene(s) for s in seeds]
    pixels = np.stack([np.asarray(s.picture(source.icons)) for s in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), [s.caption for s in scenes]


def make_shard(path: Path, source: SceneSource, codec: LinearCodec, text: TextEncoder, seeds: range) -> None:
    images, captions = pictures(source, seeds)
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))  # less padding within a batch
    states, lengths, pools = (
        torch.zeros(len(captions), TOKENS, 384, dtype=torch.float16),
        torch.zeros(len(captions), dtype=torch.int32),
        torch.zeros(len(captions), 384),
    )
    for at in range(0, len(order), 64):
        rows = order[at : at + 64]
        s, n = text([captions[i] for i in rows])
        pools[rows], kept = pooled(s, n), min(s.shape[1], TOKENS)
        states[rows, :kept], lengths[rows] = s[:, :kept].half(), n.clamp_max(TOKENS).int()
    partial = path.with_suffix(".part")
    save_file(
        {
            "latents": codec.encode(images.float() / 255).half().contiguous(),
            "states": states,
            "lengths": lengths,
            "pooled": pools.half(),
        },
        partial,
    )
    partial.replace(path)


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # (B, 16, 16, 16)
    context: Tensor  # (B, TOKENS, 384)
    lengths: Tensor  # (B,)
    pooled: Tensor  # (B, 384)


class Shards:
    """All shards of a folder in memory; batches drawn by seed and step, so that a resumed run goes on exactly."""

    def __init__(self, folder: Path) -> None:
        parts = [load_file(p) for p in sorted(folder.glob("shard-*.safetensors"))]
        if not parts:
            raise FileNotFoundError(
                f"no shards in {folder}: make them first with `python -m steerdit.benchmarks.emoji_scenes data`"
            )
        self.data = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}

    def __len__(self) -> int:
        return len(self.data["latents"])

    def batch(self, step: int, size: int, seed: int = 0) -> Batch:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(self), (size,), generator=g)
        d = self.data
        return Batch(
            d["latents"][rows].float(),
            d["states"][rows].float(),
            d["lengths"][rows],
            d["pooled"][rows].float(),
        )
