"""What an adapted decoder should be (SafeDIG, arXiv 2605.30049; the loss is ours).

With x = s·a the scaled activation, z = E_s(a), width d, W_s the source decoder's rows and W_t the adapted ones,

    L = E_target ‖x − b − z W_t‖² / d  +  μ ( E_replay ‖z (W_t − W_s)‖² / d  +  ν ‖W_t − W_s‖² / ‖W_s‖² )

over target activations of the safe side, and over replayed source activations. Where pairs are given instead, the code
is that of the unsafe side, and the adapted decoder has to say, beyond what the source's says, what the safe side has
more: ‖x⁺ − x⁻ − z (W_t − W_s)‖², where z holds the latents alone that the gate of the token's category lets through.
The bias b is the encoder's as well, so it is not adapted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ..latents.codes import Dictionary
from ..recordings.rows import require_finite

MOST_SOLVED = 8192
"""Latents at most in the closed form, which holds their moments twice in float64."""

EXPECTED = {
    "replay": "a share below 1",
    "steps": "a whole number from 1",
    "batch": "so many rows that target and replay have at least one each",
    "rate": "a finite number above 0",
}
"""What a setting has to be, where that is more than a number that is not negative."""


class Examples(NamedTuple):
    """Some rows of the target domain."""

    inputs: Tensor
    """(n, d) activations: of the safe side, or the unsafe side of pairs."""
    change: Tensor | None = None
    """(n, d) a⁺ − a⁻ of pairs; None asks for the reconstruction of the inputs themselves."""
    acting: Tensor | None = None
    """(n, N) bool: the latents that will act there, where a gate lets only some through; None is all."""


class Losses(NamedTuple):
    """The terms of L."""

    target: float
    replay: float
    weight: float
    """Unweighted, as the ones before it."""
    total: float


@dataclass(frozen=True)
class AdaptationConfig:
    """How a decoder is adapted; any term can be switched off."""

    stability: float = 1.0
    """μ; 0 switches both stability terms off."""
    weight: float = 0.01
    """ν; 0 switches the weight term off."""
    replay: float = 0.2
    """Share of source rows in a batch; 0 switches the replay off."""
    steps: int = 1000
    batch: int = 2048
    rate: float = 3e-3
    """Adam's, at the first step; it falls to 0 in a line."""
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "stability": self.stability >= 0,
            "weight": self.weight >= 0,
            "replay": 0 <= self.replay < 1,
            "steps": self.steps >= 1,
            "batch": self.rows[0] >= 1 and (self.replay == 0 or self.rows[1] >= 1),
            "rate": 0 < self.rate < math.inf,
        }
        for name, fits in checks.items():
            if not fits or not math.isfinite(getattr(self, name)):
                raise SteeringError(
                    f"adaptation: {name}",
                    expected=EXPECTED.get(name, "a finite number that is not negative"),
                    found=f"{getattr(self, name)}",
                    remedy="Set the weight of a term to 0 to switch it off.",
                )

    @property
    def rows(self) -> tuple[int, int]:
        """Target and source rows of a batch."""
        source = round(self.replay * self.batch)
        return self.batch - source, source

    @property
    def replays(self) -> bool:
        return self.stability > 0 and self.replay > 0


def terms(
    sae: Dictionary, change: Tensor, target: Examples, source: Tensor | None, config: AdaptationConfig
) -> tuple[Losses, Tensor]:
    """L on one batch, and its gradient (N, d) by W_t.

    Args:
        change: (N, d) W_t − W_s.
        source: (m, d) replayed activations; None where none are.
    """
    width = change.shape[1]
    z, wanted = _codes(sae, target)
    off = z @ change - wanted  # (n, d)
    losses = [off.square().sum() / len(z) / width, z.new_zeros(()), z.new_zeros(())]
    gradient = z.T @ off * (2 / len(z) / width)
    if config.replays and source is not None:
        zr = sae.encode(require_finite(source.to(change), "adaptation: source activations"))
        moved = zr @ change
        losses[1] = moved.square().sum() / len(zr) / width
        gradient += zr.T @ moved * (2 * config.stability / len(zr) / width)
    if config.stability and config.weight:
        size = sae.decoder.square().sum()
        losses[2] = change.square().sum() / size
        gradient += change * (2 * config.stability * config.weight / size)
    first, second, third = (float(loss) for loss in losses)
    return Losses(first, second, third, first + config.stability * (second + config.weight * third)), gradient


@torch.no_grad()
def solve(
    sae: Dictionary,
    target: Iterable[Examples],
    source: Iterable[Tensor],
    config: AdaptationConfig = AdaptationConfig(),
    latents: Sequence[int] | None = None,
) -> Tensor:
    """W_t (N, d) where L is least, from all the rows of two streams, in float64 inside.

    (A_t + μ A_r + μ ν / ‖W_s‖²) ΔW = B with A = E[zᵀz] / d of either domain and B = E[zᵀ(x − b − z W_s)] / d. Where
    that has many solutions, the one nearest to W_s.

    Raises:
        SteeringError: more latents fire than can be solved for, there are no rows, or a value is not finite.
    """
    chosen = (~frozen_rows(len(sae.decoder), latents)).nonzero()[:, 0]
    if len(chosen) > MOST_SOLVED:
        raise SteeringError(
            "adaptation: closed form",
            expected=f"at most {MOST_SOLVED} latents",
            found=f"{len(chosen)}",
            remedy="Choose the latents that may change, or adapt by steps.",
        )
    width = sae.decoder.shape[1]
    moments, right = torch.zeros(len(chosen), len(chosen)).double(), torch.zeros(len(chosen), width).double()
    rows = 0
    for examples in target:
        z, wanted = (part.cpu().double() for part in _codes(sae, examples))
        moments += z[:, chosen].T @ z[:, chosen]
        right += z[:, chosen].T @ wanted
        rows += len(z)
    if not rows:
        raise SteeringError(
            "adaptation: target",
            expected="at least one row",
            found="none",
            remedy="Record the target domain.",
        )
    moments /= rows * width
    right /= rows * width
    if config.replays:
        replayed, rows = torch.zeros_like(moments), 0
        for tokens in source:
            z = sae.encode(require_finite(tokens, "adaptation: source activations")).cpu()[:, chosen].double()
            replayed += z.T @ z
            rows += len(z)
        moments += config.stability * replayed / max(rows, 1) / width
    ridge = config.stability * config.weight / float(sae.decoder.double().square().sum())
    moments += ridge * torch.eye(len(chosen), dtype=torch.float64)
    change = _solution(moments, right)
    adapted = sae.decoder.clone()
    adapted[chosen] += change.to(adapted)
    return adapted


def frozen_rows(size: int, latents: Sequence[int] | None) -> Tensor:
    """(N) bool: the rows that stay as they are, all but these; None leaves none.

    Raises:
        SteeringError: there are none to change, or one is not of this autoencoder.
    """
    frozen = torch.full((size,), latents is not None)
    if latents is not None:
        if not latents or not all(0 <= latent < size for latent in latents):
            raise SteeringError(
                "adaptation: latents",
                expected=f"some of 0 to {size - 1}",
                found=f"{list(latents)[:5]}",
                remedy="Select latents of this very autoencoder.",
            )
        frozen[list(latents)] = False
    return frozen


def _codes(sae: Dictionary, examples: Examples) -> tuple[Tensor, Tensor]:
    """z (n, N), and what z (W_t − W_s) should be (n, d), in scaled units."""
    if not len(examples.inputs):
        raise SteeringError(
            "adaptation: target",
            expected="at least one row",
            found="none",
            remedy="Record the target domain.",
        )
    a = require_finite(examples.inputs.to(sae.decoder), "adaptation: target activations")
    z = sae.encode(a)
    if examples.acting is not None:
        z = z * examples.acting.to(z)
    if examples.change is not None:
        change = require_finite(examples.change.to(sae.decoder), "adaptation: target activations")
        return z, sae.input_scale * change
    return z, sae.input_scale * a - sae.decoder_bias - z @ sae.decoder


def _solution(moments: Tensor, right: Tensor) -> Tensor:
    """M⁻¹ B of a symmetric M; where it is singular, the solution of least norm."""
    factor, failed = torch.linalg.cholesky_ex(moments)
    if not failed and float(factor.diagonal().min()) > 1e-5 * float(factor.diagonal().max()):
        return torch.cholesky_solve(right, factor)
    return torch.linalg.lstsq(moments, right, driver="gelsd").solution
