"""Recorded activations that stream by, with the latents of a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..steering.errors import SteeringError

Encode = Callable[[Tensor], Tensor]
"""Activations (n, d) → latents (n, N), zero where a latent does not fire."""


class TokenRows(Protocol):
    """What is read from a recording: tokens with the samples that they come from."""

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


class Coded(NamedTuple):
    """Some tokens' latents."""

    z: Tensor
    """(n, N), or (n, S) of the latents that were asked for."""
    sample: Tensor
    """(n) int64"""
    sigma: Tensor
    """(n)"""


def coded(
    stream: Iterable[TokenRows], encode: Encode, latents: Tensor | None = None, batch: int = 1024
) -> Iterator[Coded]:
    """The latents of all tokens of a stream, at most ``batch`` tokens at a time.

    Args:
        latents: (S) those that are kept; None keeps all N.

    Raises:
        SteeringError: an activation or a latent is not finite.
    """
    for rows in stream:
        for at in range(0, len(rows.tokens), batch):
            part = slice(at, at + batch)
            tokens = require_finite(rows.tokens[part], "recording: tokens")
            z = require_finite(encode(tokens), "dictionary: latents")
            yield Coded(z if latents is None else z[:, latents], rows.sample[part].long(), rows.sigma[part])


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
