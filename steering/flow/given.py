"""Masks that are given, in place of what detectors find: of any resolution, brought onto the grid of the tokens."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SteeringError
from .layout import onto


def marked_by(masks: Tensor) -> Tensor:
    """Masks of numbers, of any shape and dtype, as true (above 0.5) and false.

    Raises:
        SteeringError: a number is none.
    """
    if bool(masks.isnan().any()):
        raise SteeringError(
            "MASK",
            expected="numbers from 0 to 1",
            found="NaN",
            remedy="Correct what makes the mask: it does not say what is marked.",
        )
    return masks > 0.5


def require_masks(masks: Tensor) -> None:
    """Refuses what is no batch of masks (M, H, W) bool, and masks that mark nothing."""
    if masks.ndim != 3 or masks.dtype != torch.bool or not masks.numel():
        raise SteeringError(
            "MASK",
            expected="masks (M, H, W) of true and false",
            found=f"a {masks.dtype} tensor of shape {list(masks.shape)}",
            remedy="Connect a MASK of the picture.",
        )
    if not masks.any():
        raise SteeringError(
            "MASK",
            expected="a mask that marks something",
            found="an empty mask",
            remedy="Mark what is to be restricted, or leave the node out.",
        )


def given_mask(masks: Tensor, image: int, size: tuple[int, int]) -> Tensor:
    """The mask (H, W) of a picture, on the CPU.

    Args:
        masks: (M, H', W') bool; one of them serves all pictures.
        image: the picture's number.
        size: of its grid.

    Raises:
        SteeringError: there is none for the picture, or it has another shape.
    """
    if len(masks) > 1 and image >= len(masks):
        raise SteeringError(
            "MASK",
            expected="one mask for all pictures, or one for each",
            found=f"{len(masks)} masks and a picture number {image + 1}",
            remedy="Give as many masks as pictures are made at once.",
        )
    mask = masks[image if len(masks) > 1 else 0].cpu()
    (height, width), (rows, columns) = mask.shape, size
    # Sizes are rounded up to whole patches, so the shapes may differ by up to one patch along either axis.
    taller, wider = height * columns - width * rows, width * rows - height * columns
    if taller > max(height, width) or wider > max(height, width):
        raise SteeringError(
            "MASK",
            expected=f"a mask of the picture's shape, {columns} wide to {rows} high",
            found=f"{width} × {height} pixels",
            remedy="Bring the mask to the size of the picture that is made.",
        )
    return onto(_padded(mask, size), size)


def on_pixels(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (B, h, w) of patches on a picture of another size (H, W), where `given_mask` finds the same patches.

    Where the picture ends within its last patches, they are cut off; sizes that no whole patch explains stretch them.
    """
    found = masks
    for axis, wanted in ((-2, size[0]), (-1, size[1])):
        there = found.shape[axis]
        pixels = ceil(wanted / there)
        if pixels * there - wanted < pixels:
            found = found.repeat_interleave(pixels, axis).narrow(axis, 0, wanted)
        else:
            at = ((torch.arange(wanted, device=masks.device) * 2 + 1) * there) // (2 * wanted)
            found = found.index_select(axis, at)
    return found


def _padded(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask of pixels, with nothing added at its ends up to whole patches, as hosts pad a picture.

    Sizes that no whole patch explains stay.
    """
    more = [ceil(there / count) * count - there for there, count in zip(mask.shape, size)]
    sound = [extra < ceil(there / count) for extra, there, count in zip(more, mask.shape, size)]
    below, right = (extra if fits else 0 for extra, fits in zip(more, sound))
    return F.pad(mask, (0, right, 0, below))
