"""Draws the training scenes once, in shards: latents, text states, captions and labels, all from seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .codec import LinearCodec
from .concepts import ATTRIBUTES, CONCEPTS
from .scenes import Scene, SceneSource
from .text import TextEncoder, pooled

TOKENS = 24  # longest caption, in tokens; the few longer ones lose their end


TOKEN, ACROSS = 16, 8  # a generator's token, in pixels; tokens across a picture
PARTS = (
    1 + len(CONCEPTS),
    1 + len(ATTRIBUTES),
    1 + 6**3,
)  # kinds of answer to: which thing, what befell it, which part


def parts(scene: Scene) -> np.ndarray:
    """What each token of a picture shows (64, 3): the thing, its attribute, and which piece of how large a thing.

    0 stands for the background. The pieces are exact where a layout lies on the grid of tokens.
    """
    out = np.zeros((ACROSS, ACROSS, 3), np.uint8)
    for o in scene.objects:
        side = max(1, round(o.extent / TOKEN))
        left, top = (round((at - o.extent / 2) / TOKEN) for at in (o.x, o.y))
        for row in range(side):
            for column in range(side):
                if 0 <= top + row < ACROSS and 0 <= left + column < ACROSS:
                    out[top + row, left + column] = (
                        1 + [c.name for c in CONCEPTS].index(o.concept),
                        1 + [a.name for a in ATTRIBUTES].index(o.attribute) if o.attribute else 0,
                        1 + min(side, 5) * 36 + min(row, 5) * 6 + min(column, 5),
                    )
    return out.reshape(-1, 3)


def pictures(source: SceneSource, seeds: range) -> tuple[Tensor, list[Scene]]:
    """→ (B, 3, 128, 128) uint8 and their scenes."""
    scenes = [source.scene(s) for s in seeds]
    pixels = np.stack([np.asarray(s.picture(source.icons)) for s in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), scenes


def encoded(text: TextEncoder, captions: list[str]) -> dict[str, Tensor]:
    """What a shard holds of its captions: "states" (B, TOKENS, 384), "lengths" (B,) and "pooled" (B, 384)."""
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
    return {"states": states, "lengths": lengths, "pooled": pools.half()}


def make_shard(path: Path, source: SceneSource, codec: LinearCodec, text: TextEncoder, seeds: range) -> None:
    images, scenes = pictures(source, seeds)
    partial = path.with_suffix(".part")
    save_file(
        {
            "latents": codec.encode(images.float() / 255).half().contiguous(),
            "parts": torch.from_numpy(np.stack([parts(scene) for scene in scenes])),
            **encoded(text, [scene.caption for scene in scenes]),
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
    parts: Tensor  # (B, 64, 3)
    references: tuple[Tensor, ...] = ()  # what is to be edited, each (B, 16, 16, 16)
    reference_parts: tuple[Tensor, ...] = ()  # each (B, 64, 3)


class Shards:
    """All shards of a folder in memory; batches drawn by seed and step, so that a resumed run goes on exactly."""

    def __init__(self, folder: Path) -> None:
        parts = [load_file(p) for p in sorted(folder.glob("shard-*.safetensors"))]
        if not parts:
            raise FileNotFoundError(
                f"no shards in {folder}: `python -m nox -s world` draws them before it trains"
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
            d["parts"][rows].long(),
            (d["references"][rows].float(),) if "references" in d else (),
            (d["reference_parts"][rows].long(),) if "references" in d else (),
        )
