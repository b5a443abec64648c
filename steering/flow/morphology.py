"""Morphology on the grid of one picture's tokens: a few thousand patches, a bool each, in pure torch.

Labels spread by pointer jumping, so that a component is found in a few sweeps, whatever its shape.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dilated(mask: Tensor, times: int = 1) -> Tensor:
    """A mask (..., H, W) bool grown by its 8 neighbours, so many times."""
    if times == 0:
        return mask
    grown = F.max_pool2d(_pictures(mask.float()), 2 * times + 1, 1, times)
    return grown.reshape(mask.shape) > 0


def closed(mask: Tensor) -> Tensor:
    """The 3 × 3 closing of a mask (H, W) bool: dilated, then eroded. It only ever adds patches.

    It is done on an endless plane, so that a patch near the picture's edge neither vanishes nor sticks to it.
    """
    grown = dilated(F.pad(mask, (1, 1, 1, 1)))
    return ~dilated(~grown)[1:-1, 1:-1]


def filled(mask: Tensor) -> Tensor:
    """A mask (H, W) bool with its holes filled: unmarked patches that no path of 4 neighbours leads out of."""
    outside = F.pad(~mask, (1, 1, 1, 1), value=True)
    labels = components(outside, diagonal=False)
    return (labels != labels[0, 0])[1:-1, 1:-1]


def components(mask: Tensor, diagonal: bool = True) -> Tensor:
    """The connected components of a mask (H, W) bool.

    Args:
        diagonal: 8 neighbours, or only 4.

    Returns:
        labels (H, W) int64: 0 outside, else one number above 0 for each component, the same at all of its patches.
    """
    height, width = mask.shape
    # Numbers go from 1; a component takes its highest.
    labels = torch.arange(1, height * width + 1, device=mask.device).view(height, width) * mask
    while True:
        spread = _highest_around(labels, diagonal) * mask
        # A label is also a place: whoever holds it takes over what that place has learned.
        table = torch.cat([spread.new_zeros(1), spread.flatten()])
        spread = table[spread]
        if torch.equal(spread, labels):
            return labels
        labels = spread


def _highest_around(labels: Tensor, diagonal: bool) -> Tensor:
    """The highest label among each patch and its neighbours."""
    tall = torch.maximum(labels, _shifted(labels, 0))
    if diagonal:
        return torch.maximum(tall, _shifted(tall, 1))
    return torch.maximum(tall, _shifted(labels, 1))


def _shifted(labels: Tensor, axis: int) -> Tensor:
    """The higher of the two neighbours along an axis."""
    padded = F.pad(labels, (0, 0, 1, 1) if axis == 0 else (1, 1, 0, 0))
    length = labels.shape[axis]
    return torch.maximum(padded.narrow(axis, 0, length), padded.narrow(axis, 2, length))


def _pictures(x: Tensor) -> Tensor:
    """(..., H, W) as (N, 1, H, W)."""
    return x.reshape(-1, 1, *x.shape[-2:])
