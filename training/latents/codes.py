"""Recorded activations that stream by, with the latents of a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

from ... import kernels
from ...steering.errors import SteeringError
from ..recordings.rows import TokenRows, require_finite

Rows = TypeVar("Rows", bound="TokenRows")

Encode = Callable[[Tensor], Tensor]
"""Activations (n, d) → latents (n, N), zero where a latent does not fire."""


class Dictionary(Protocol):
    """A trained autoencoder: p = W_enc (s·a − b_dec) + b_enc, z = activation(p), D(z) = (z W_dec + b_dec) / s."""

    @property
    def encoder(self) -> Tensor:
        """(N, d)"""
        ...

    @property
    def encoder_bias(self) -> Tensor:
        """(N)"""
        ...

    @property
    def threshold(self) -> Tensor:
        """(N)"""
        ...

    @property
    def decoder(self) -> Tensor:
        """(N, d)"""
        ...

    @property
    def decoder_bias(self) -> Tensor:
        """(d)"""
        ...

    @property
    def input_scale(self) -> float: ...

    @property
    def activation(self) -> str:
        """jumprelu, where each latent decides by its own threshold, or topk, where they compete."""
        ...

    def encode(self, a: Tensor) -> Tensor:
        """(n, d) → (n, N)"""
        ...


class Coded(NamedTuple):
    """Some tokens' latents."""

    z: Tensor
    """(n, N), or (n, S) of the latents that were asked for, wherever the dictionary lies; all else is on the CPU."""
    sample: Tensor
    """(n) int64"""
    sigma: Tensor
    """(n)"""
    position: Tensor
    """(n)"""


def coded(stream: Iterable[TokenRows], encode: Encode, batch: int = 1024) -> Iterator[Coded]:
    """The latents of all tokens of a stream, at most ``batch`` tokens at a time.

    Raises:
        SteeringError: an activation or a latent is not finite.
    """
    for rows in stream:
        for at in range(0, len(rows.tokens), batch):
            part = slice(at, at + batch)
            tokens = require_finite(rows.tokens[part], "recording: tokens")
            z = require_finite(encode(tokens), "dictionary: latents")
            yield Coded(z, rows.sample[part].long(), rows.sigma[part], rows.position[part])


def heard(stream: Iterable[Rows], progress: Callable[[int], None] | None) -> Iterator[Rows]:
    """The stream itself; ``progress`` hears after each piece how many tokens it had, and may raise to stop."""
    for rows in stream:
        yield rows
        if progress is not None:
            progress(len(rows.tokens))


def some_latents(sae: Dictionary, latents: Sequence[int]) -> Encode:
    """An encoder of these latents (S) alone, which costs S rows of the dictionary unless they compete with all others.

    Raises:
        SteeringError: a latent is not of this dictionary.
    """
    if not all(0 <= latent < len(sae.encoder) for latent in latents):
        raise SteeringError(
            "latents",
            expected=f"some of 0 to {len(sae.encoder) - 1}",
            found=", ".join(map(str, latents[:9])),
            remedy="Select latents of this very autoencoder.",
        )
    chosen = list(latents)
    if sae.activation != "jumprelu":
        return lambda a: sae.encode(a)[:, chosen]
    rows, bias, threshold = sae.encoder[chosen], sae.encoder_bias[chosen], sae.threshold[chosen]

    def encode(a: Tensor) -> Tensor:
        centred = sae.input_scale * a.to(rows) - sae.decoder_bias
        return kernels.encode_selected(centred, rows, bias, threshold)

    return encode
