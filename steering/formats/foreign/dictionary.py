"""Another project's autoencoder in the terms of a bundle, its rows still in its file.

The projects write the same few computations in different ways. Here they are told apart by what they do:

    x = a, or a standardised (standardise.py), or s · a
    u = W (x − b_dec), or W x where the decoder's bias is not taken off the input
    p = g ⊙ u + b,  z = activation(p),  D(z) = V z + b_dec

A gated autoencoder (Rajamanoharan et al., arXiv 2404.16014) has z = [u + b_gate > 0] · ReLU(g ⊙ u + b_mag) with
g = exp(r_mag) > 0. Its gate opens exactly where p = g ⊙ u + b_mag exceeds b_mag − g ⊙ b_gate, so it is a JumpReLU.
A TopK that ranks latents by p · ‖v‖ (SAELens) is a TopK whose encoder rows, bias and decoder rows v carry that norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import BundleError
from ...sites import Site
from ..bundle import LatentTensors
from ..container import sha256_of
from ..fields import shown
from ..header import Category, SaeSite
from ..rows import require_finite
from .file import Matrix, at_least_zero
from .tensors import Tensors

AT_ONCE = 4096
"""Rows that are folded in double precision at a time."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """N latents of width d."""

    tensors: Tensors
    encoder: Matrix
    decoder: Matrix
    encoder_bias: Tensor
    """(N) float64, as all vectors here"""
    decoder_bias: Tensor
    """(d)"""
    activation: str
    """relu, jumprelu or topk, as in a bundle."""
    k: int | None = None
    centred: bool = True
    """The decoder's bias is taken off the input."""
    threshold: Tensor | None = None
    """(N), with jumprelu"""
    gain: Tensor | None = None
    """(N), g above"""
    ranked_by_norm: bool = False
    """TopK compares p · ‖v‖, and codes carry that norm."""
    input_scale: float = 1.0
    input_norm: str = "none"
    elsewhere: str | None = None
    """What it was trained on, if that is no site of a diffusion transformer."""
    site: Site | None = None
    """Where it belongs, if its file says so."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the file says of its making."""

    @property
    def latents(self) -> int:
        return self.encoder_bias.numel()

    @property
    def width(self) -> int:
        return self.decoder_bias.numel()

    @property
    def semantics(self) -> tuple[object, ...]:
        """All that decides what it computes, apart from the content of its file's matrices; for comparison."""
        vectors = (self.encoder_bias, self.decoder_bias, self.threshold, self.gain)
        return (
            self.encoder,
            self.decoder,
            self.activation,
            self.k,
            self.centred,
            self.ranked_by_norm,
            self.input_scale,
            self.input_norm,
            *(None if it is None else sha256_of([it.contiguous().numpy().tobytes()]) for it in vectors),
        )

    def described(self, categories: Mapping[str, Category]) -> SaeSite:
        """How a bundle's header describes it."""
        return SaeSite(
            width=self.width,
            latents=self.latents,
            activation=self.activation,
            k=self.k,
            input_scale=self.input_scale,
            input_norm=self.input_norm,
            categories=categories,
        )

    def read(self, indices: Sequence[int] | None = None) -> LatentTensors:
        """Some latents' rows (None: all N) as a bundle would hold them, in float32.

        Raises:
            BundleError: a latent is not in the dictionary, a value is not finite, the file changed.
        """
        chosen = tuple(range(self.latents)) if indices is None else tuple(int(latent) for latent in indices)
        outside = [latent for latent in chosen if not 0 <= latent < self.latents]
        if outside or len(set(chosen)) != len(chosen):
            raise BundleError(
                str(self.tensors.path),
                expected=f"latents from 0 to {self.latents - 1}, each once",
                found=shown(outside or list(chosen)),
                remedy="Choose latents that the dictionary has.",
            )
        parts = [self._rows(chosen[start : start + AT_ONCE]) for start in range(0, len(chosen), AT_ONCE)]
        encoder, bias, decoder = (torch.cat(part) for part in zip(*(parts or [self._rows(())]), strict=True))
        threshold = None if self.threshold is None else at_least_zero(self.threshold[list(chosen)])
        threshold = None if threshold is None else self._single("thresholds", threshold)
        return LatentTensors(
            chosen,
            encoder=encoder,
            encoder_bias=bias,
            decoder=decoder,
            decoder_bias=self._single("b_dec", self.decoder_bias),
            threshold=threshold,
            decoder_adapted=None,
        )

    def _rows(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder rows (S, d), biases (S) and decoder rows (S, d), folded in float64."""
        at = torch.tensor(chosen, dtype=torch.long)
        encoder = stored = self.encoder.read(self.tensors, chosen)
        decoder = self.decoder.read(self.tensors, chosen)
        bias = self.encoder_bias[at]
        if self.gain is not None:
            encoder = encoder * self.gain[at, None]
        if self.ranked_by_norm:
            norm = decoder.norm(dim=-1)
            encoder, bias = encoder * norm[:, None], bias * norm
            decoder = decoder / norm.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        if not self.centred:
            bias = bias + encoder @ self.decoder_bias  # a bundle takes its decoder's bias off the input
        return (
            self._single(self.encoder.name, encoder, stored),
            self._single("biases", bias),
            self._single(self.decoder.name, decoder),
        )

    def _single(self, part: str, values: Tensor, stored: Tensor | None = None) -> Tensor:
        """Values in float32, or a refusal of what it cannot hold: infinities, and rows that vanish."""
        where = f"{self.tensors.path}: {part} in float32"
        found = require_finite(where, values.float())
        before = values if stored is None else stored
        if before.ndim == 2:
            lost = before.any(-1) & ~found.any(-1)
            if lost.any():
                raise BundleError(
                    where,
                    expected="rows that stay above zero",
                    found=f"{int(lost.sum())} rows whose numbers are too small",
                    remedy="Scale the dictionary in double precision before it is imported.",
                )
        return found


def gated(gate_bias: Tensor, magnitude_bias: Tensor, log_gain: Tensor) -> dict[str, Any]:
    """The fields of a gated autoencoder: biases (N) of gate and magnitude, and r_mag (N)."""
    gain = log_gain.exp()
    return {
        "activation": "jumprelu",
        "encoder_bias": magnitude_bias,
        "gain": gain,
        "threshold": at_least_zero(magnitude_bias - gain * gate_bias),
    }
