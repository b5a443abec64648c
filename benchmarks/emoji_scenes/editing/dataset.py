"""Draws the triples that teach editing, in shards: reference, instruction, target, all from seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..codec import LinearCodec
from ..dataset import encoded, parts
from ..scenes import SceneSource
from ..text import TextEncoder
from .instructions import Edit, edit


def pictures(source: SceneSource, edits: list[Edit]) -> tuple[Tensor, Tensor]:
    """References and targets, each (B, 3, 128, 128) uint8."""
    both = [[np.asarray(s.picture(source.icons)) for s in (e.before, e.after)] for e in edits]
    drawn = torch.from_numpy(np.stack(both)).permute(1, 0, 4, 2, 3)
    return drawn[0], drawn[1]


def make_shard(path: Path, source: SceneSource, codec: LinearCodec, text: TextEncoder, seeds: range) -> None:
    """Shards as a generator's (``dataset.make_shard``), with the references beside the latents to be made."""
    edits = [edit(source, seed) for seed in seeds]
    before, after = pictures(source, edits)
    partial = path.with_suffix(".part")
    save_file(
        {
            "latents": codec.encode(after.float() / 255).half().contiguous(),
            "references": codec.encode(before.float() / 255).half().contiguous(),
            "parts": torch.from_numpy(np.stack([parts(e.after) for e in edits])),
            "reference_parts": torch.from_numpy(np.stack([parts(e.before) for e in edits])),
            **encoded(text, [e.text for e in edits]),
        },
        partial,
    )
    partial.replace(path)
