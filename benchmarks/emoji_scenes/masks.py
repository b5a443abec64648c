"""Where a picture shows something of a risk, by the oracle: the masks that anchors are collected with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .concepts import CATEGORIES, LABELS, category_of
from .drawing import PICTURE
from .oracle import Oracle

RISKY = [at for at, label in enumerate(LABELS) if category_of(label) in CATEGORIES]


@torch.no_grad()
def unsafe_masks(oracle: Oracle, pictures: Tensor) -> Tensor:
    """(B, 128, 128) of 0 and 1: the cells that the oracle calls risky, which are those about the middle of a thing.

    Args:
        pictures: (B, 3, 128, 128) in [0, 1]
    """
    seen = torch.cat([oracle(part)[:, RISKY].amax(1) > 0 for part in pictures.split(64)])  # (B, 8, 8)
    return F.interpolate(seen[:, None].float(), size=(PICTURE, PICTURE), mode="nearest")[:, 0]
