"""The editor as it is shipped: what training added to the generator's weights, in four bits a weight.

The editor is the generator trained on, so that its weights differ little; a second checkpoint of 16 MB would take the
repository past the 32 MiB that its weights may have. Matrices are cut into blocks of 64 along their rows; each block
has one float16 scale and codes of −7 … 7, two to a byte. Vectors are kept in float16.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

BLOCK, TOP = 64, 7
LEAST = 2.0**-24  # float16 has none smaller but 0
CLIPS = torch.linspace(0.5, 1.0, 11)  # shares of the largest weight that 7 may stand for


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (r, c), c a multiple of 64 → codes (r, c/2) uint8 and scales (r, c/64) float16, of the least error."""
    blocks = x.float().unflatten(-1, (-1, BLOCK))  # (r, n, 64)
    largest = blocks.abs().amax(-1, keepdim=True)
    best, scales = torch.full_like(largest, torch.inf), torch.zeros_like(largest)
    for clip in CLIPS:
        scale = (largest * clip / TOP).half().float().clamp_min(LEAST)
        error = (_codes(blocks, scale) * scale - blocks).square().sum(-1, keepdim=True)
        scales = torch.where(error < best, scale, scales)
        best = torch.minimum(error, best)
    codes = (_codes(blocks, scales) + TOP + 1).to(torch.uint8).flatten(1)
    return (codes[:, ::2] | codes[:, 1::2] << 4).contiguous(), scales.squeeze(-1).half()


def _codes(blocks: Tensor, scale: Tensor) -> Tensor:
    return (blocks / scale).round().clamp(-TOP, TOP)


def restore(codes: Tensor, scales: Tensor) -> Tensor:
    """The matrix (r, c) float32 that ``quantise`` stands for."""
    both = torch.stack([codes & 15, codes >> 4], -1).flatten(1).float() - (TOP + 1)
    return (both.unflatten(-1, (-1, BLOCK)) * scales.float()[..., None]).flatten(1)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack(generator: Path, editor: Path, out: Path) -> None:
    """Write the difference of two checkpoints that have the same tensors."""
    begun, grown, held = load_file(generator), load_file(editor), {}
    for name, weight in grown.items():
        apart = weight.float() - begun[name].float()
        if weight.ndim == 2 and weight.shape[1] % BLOCK == 0:
            held[f"{name}.codes"], held[f"{name}.scales"] = quantise(apart)
        else:
            held[name] = apart.half()
    save_file(held, out, {"generator": digest(generator)})


def unpack(generator: Path, difference: Path) -> dict[str, Tensor]:
    """The editor's weights in float16.

    Raises:
        ValueError: the difference was taken to another generator.
    """
    with safe_open(difference, "pt") as file:
        wanted = (file.metadata() or {}).get("generator")
    if wanted != digest(generator):
        raise ValueError(
            f"{difference} is a difference to another generator than {generator}: "
            "`python -m nox -s world -- --editing` makes it anew"
        )
    held, editor = load_file(difference), {}
    for name, weight in load_file(generator).items():
        codes = held.get(f"{name}.codes")
        apart = held[name].float() if codes is None else restore(codes, held[f"{name}.scales"])
        editor[name] = (weight.float() + apart).half()
    return editor
