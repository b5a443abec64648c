"""Where the streams of a joint attention lie in its sequence, and how a mask on the picture falls on a reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SteeringError


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of one picture: height × width patches, row by row, one after another in the joint sequence."""

    start: int
    """Of the picture's first token in the joint sequence."""
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.height < 1 or self.width < 1:
            raise SteeringError(
                "layout of the attention",
                expected="a picture of at least one token, from the sequence's start on",
                found=f"{self.height} × {self.width} tokens from {self.start}",
                remedy="Another node changes how many tokens the model sees. Steer without it.",
            )

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def count(self) -> int:
        return self.height * self.width

    @property
    def stop(self) -> int:
        return self.start + self.count

    @property
    def span(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class FlowLayout:
    """The order of q, k and v in one joint attention of L tokens.

    The spans may follow one another in any order, with gaps (padding, registers); they never overlap.
    """

    text: slice
    """Tokens of the conditioning; empty where the attention is the picture's alone."""
    image: TokenGrid
    """The picture that is generated."""
    references: tuple[TokenGrid, ...] = ()
    """The reference latents, in their order."""

    def __post_init__(self) -> None:
        if self.text.start is None or self.text.stop is None or self.text.step not in (None, 1):
            raise self._refusal("a text span with start and stop", str(self.text))
        grids = (self.image, *self.references)
        spans = sorted(
            (span.start, span.stop)
            for span in (self.text, *(grid.span for grid in grids))
            if span.start < span.stop
        )
        if any(stop > start for (_, stop), (start, _) in zip(spans, spans[1:])) or spans[0][0] < 0:
            raise self._refusal("streams that do not overlap", str(spans))

    def __hash__(self) -> int:  # a slice has none before Python 3.12
        return hash((self.text.start, self.text.stop, self.image, self.references))

    @property
    def tokens(self) -> int:
        """The least L that holds all of it."""
        return max(self.text.stop, self.image.stop, *(grid.stop for grid in self.references))

    def require(self, length: int) -> None:
        """A SteeringError unless an attention of so many tokens holds the layout."""
        if self.tokens > length:
            raise self._refusal(f"at least {self.tokens} tokens", str(length))

    @staticmethod
    def _refusal(expected: str, found: str) -> SteeringError:
        return SteeringError(
            "layout of the attention",
            expected=expected,
            found=found,
            remedy="Another node changes how many tokens the model sees, or keeps some of them back (a cache of "
            "reference latents does). Steer without it.",
        )


def onto(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (..., H, W) bool on a grid of another size (..., h, w), both showing the same picture.

    Along an axis with as many patches or more, each patch asks the one that lies under its centre. Along an axis
    with fewer, it asks all that it covers, so that nothing marked gets lost.
    """
    height, width = mask.shape[-2:]
    lead, found = mask.shape[:-2], mask.reshape(-1, 1, height, width)
    for axis, wanted in ((-2, size[0]), (-1, size[1])):
        found = _along(found, axis, wanted)
    return found.reshape(*lead, *size)


def _along(mask: Tensor, axis: int, wanted: int) -> Tensor:
    there = mask.shape[axis]
    if wanted == there:
        return mask
    if wanted > there:
        at = ((torch.arange(wanted, device=mask.device) * 2 + 1) * there) // (2 * wanted)
        return mask.index_select(axis, at)
    size = (wanted, mask.shape[-1]) if axis == -2 else (mask.shape[-2], wanted)
    return F.adaptive_max_pool2d(mask.float(), size) > 0
