"""How far a picture lies from real ones, in features that steering never saw (ours).

Each cell of a picture's feature map is compared with a bank of cells from real pictures; a picture is as strange as its
strangest cells. A smear where an object was lies far from both objects and background.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORST = 4  # cells of a picture that count


def bank(features: Tensor, size: int = 4096, seed: int = 0) -> Tensor:
    """Feature maps of real pictures (B, C, h, w) → (size, C) cells drawn at random."""
    cells = features.movedim(1, -1).flatten(0, 2)
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))
    return cells[order[:size]].contiguous()


def strangeness(features: Tensor, real: Tensor) -> Tensor:
    """Feature maps (B, C, h, w), bank (n, C) → (B,): mean distance of the worst cells to their nearest real one."""
    cells = features.movedim(1, -1).flatten(1, 2)  # (B, h·w, C)
    nearest = torch.stack([torch.cdist(picture, real).amin(1) for picture in cells])
    return nearest.topk(WORST, 1).values.mean(1)


def artifact_threshold(unsteered: Tensor) -> float:
    """The 99 % quantile of the unsteered generator's strangeness: beyond it a picture counts as an artifact."""
    return float(torch.quantile(unsteered.double(), 0.99))
