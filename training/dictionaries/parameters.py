"""The numbers that training changes, and where they begin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...steering.errors import SteeringError
from .activations import top_k
from .sparse import decode

AT_START = 8192
"""Rows that decide where training begins."""
FOR_FACTOR = 1024
"""Of them, about so many for the encoder's factor."""


@dataclass
class Parameters:
    """A dictionary of N latents for activations of width d that were multiplied by `scale`; all float32."""

    encoder: Tensor
    """(N, d)"""
    encoder_bias: Tensor
    """(N)"""
    decoder: Tensor
    """(N, d), rows of length 1"""
    decoder_bias: Tensor
    """(d)"""
    log_threshold: Tensor | None
    """(N), for jumprelu: always positive as θ = exp, as in the JumpReLU paper's appendix."""
    scale: float

    def trained(self) -> dict[str, Tensor]:
        """All that an optimizer moves, by name."""
        named = {
            "encoder": self.encoder,
            "encoder_bias": self.encoder_bias,
            "decoder": self.decoder,
            "decoder_bias": self.decoder_bias,
        }
        return named if self.log_threshold is None else {**named, "log_threshold": self.log_threshold}


def start(rows: Tensor, latents: int, k: int, seed: int, centre: str, device: torch.device) -> Parameters:
    """Random decoder rows of length 1, an encoder tied to them, the centre of some activations (n, d) as the bias.

    The scale brings the mean distance from the centre to √d, so that one learning rate suits all sites. The encoder is
    the decoder times the factor with which k latents reconstruct best: the k largest of many say too much (both ours).

    Args:
        centre: median (geometric, Weiszfeld) or mean.

    Raises:
        SteeringError: the activations are not finite or all the same.
    """
    rows = rows[:AT_START].to(device, torch.float32)
    middle = geometric_median(rows) if centre == "median" else rows.double().mean(0).float()
    spread = float((rows - middle).norm(dim=1).double().mean())
    if not math.isfinite(spread) or spread == 0:
        raise SteeringError(
            "recording: tokens",
            expected="finite activations that differ from each other",
            found="a NaN or infinite one" if spread else "the same one everywhere",
            remedy="Record again: with a model dtype that does not overflow, and with more than one prompt.",
        )
    scale = math.sqrt(rows.shape[1]) / spread
    draw = torch.Generator().manual_seed(seed)
    decoder = functional.normalize(torch.randn(latents, rows.shape[1], generator=draw), dim=1).to(device)
    c = scale * (rows[:: max(1, len(rows) // FOR_FACTOR)] - middle)
    said = decode(top_k(c, decoder, decoder.new_zeros(latents), k), decoder, len(c))
    factor = float((said * c).double().sum() / said.double().square().sum().clamp_min(1e-12))
    return Parameters(
        encoder=factor * decoder,
        encoder_bias=torch.zeros(latents, device=device),
        decoder=decoder,
        decoder_bias=scale * middle,
        log_threshold=None,
        scale=scale,
    )


def geometric_median(rows: Tensor, rounds: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point (d) whose distances to the rows (n, d) have the least sum, by Weiszfeld's iteration, in float64."""
    points = rows.double()
    guess = points.mean(0)
    for _ in range(rounds):
        distance = (points - guess).norm(dim=1)
        weight = 1 / distance.clamp_min(1e-9 * float(distance.mean()) + 1e-300)
        moved = weight @ points / weight.sum()
        if float((moved - guess).norm()) <= tolerance * float(distance.mean()):
            return moved.float()
        guess = moved
    return guess.float()
