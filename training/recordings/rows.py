"""What a recording gives: tokens with the labels that tell where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...steering.errors import SteeringError


class Rows(NamedTuple):
    """Tokens and where they come from."""

    tokens: Tensor
    """(n, d) float32"""
    sample: Tensor
    """(n,) int64, numbers in the manifest's samples"""
    sigma: Tensor
    """(n,) float32"""
    position: Tensor
    """(n,) int64, the token's place in its stream"""


class Pairs(NamedTuple):
    """Tokens of unsafe prompts beside those of their safe rewrites: same seed, noise level and place."""

    unsafe: Tensor
    """(n, d) float32"""
    safe: Tensor
    """(n, d) float32"""
    sample_unsafe: Tensor
    """(n,) int64"""
    sigma: Tensor
    """(n,) float32"""
    position: Tensor
    """(n,) int64"""


class TokenRows(Protocol):
    """As much of `Rows` as what goes over a recording reads."""

    @property
    def tokens(self) -> Tensor:
        """(n, d)"""
        ...

    @property
    def sample(self) -> Tensor:
        """(n) numbers of samples."""
        ...

    @property
    def sigma(self) -> Tensor:
        """(n) noise levels, in the model's own units."""
        ...

    @property
    def position(self) -> Tensor:
        """(n) the token's place in its stream."""
        ...


def joined(parts: Sequence[Rows], width: int) -> Rows:
    """One after the other."""
    if not parts:
        none = torch.empty(0, dtype=torch.int64)
        return Rows(torch.empty(0, width), none, torch.empty(0), none)
    return Rows(*(torch.cat(column) for column in zip(*parts)))


def taken(rows: Rows, which: Tensor) -> Rows:
    """Some rows, by their numbers or a mask."""
    return Rows(*(column[which] for column in rows))


def matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the equal rows of two matrices of keys, each key once in each, in the order of the first."""
    _, which = torch.cat([a, b]).unique(dim=0, return_inverse=True)
    place = torch.full((int(which.max()) + 1 if len(which) else 0,), -1)
    place[which[len(a) :]] = torch.arange(len(b))
    other = place[which[: len(a)]]
    return (other >= 0).nonzero()[:, 0], other[other >= 0]


def require_finite(values: Tensor, where: str) -> Tensor:
    """The values themselves; a SteeringError that names ``where`` if one is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise SteeringError(
            where,
            expected="finite numbers",
            found=f"{bad} of {values.numel()} that are NaN or infinite",
            remedy="Record again with a model dtype that does not overflow (bfloat16 or float32), or train again.",
        )
    return values
