"""How large everything is that the kernel benchmark times."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SEED = 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Sizes:
    """Of the figures; TINY only shows that everything runs."""

    widths: tuple[int, ...] = (3072, 2432)
    latents: int = 24_576
    """For the first width; the others' are as many times their own width."""
    k: int = 32
    tokens: int = 512
    selected: tuple[int, ...] = (16, 64)
    heads: int = 24
    rounds: int = 15
    file_latents: int = 49_152
    steps: int = 8
    pictures: tuple[int, ...] = (4, 16)
    """In a batch; 16 is what the pack samples at once where it is not told otherwise."""
    architectures: tuple[int, ...] | None = None
    """To compile for; None is all."""
    calls: int = 1000


TINY = Sizes((128, 64), 1024, 8, 16, (4, 8), 1, 3, 2048, 2, (1,), (89,), 20)
