"""The loss of a step and its gradient, in closed form.

With s·a the scaled activation, c = s·a − b_dec, p = W c + b, sparse z = activation(p), V = Σ‖c − mean c‖²:

    r = Σ_f z_f d_f − c                          what is missing, with its sign turned
    FVU = Σ‖r‖² / V                              fraction of variance unexplained
    AuxK = min(1, D / k_aux) · Σ‖ê + r‖² / V     ê of the k_aux = d/2 largest of the D dead latents (Gao et al., A.2)
    jumprelu: (L0 / k − 1)²                      with its straight-through gradient (Rajamanoharan et al., eqs. 9 to 12)

Each dictionary row's gradient is a sum over the few tokens at which its latent fires: see sparse.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .parameters import Parameters
from .ranks import Ranks
from .sparse import ByLatent, Codes, by_latent, decode, sums, sums_and_dots

SINKING = 1e-3
"""Gradient of a dead latent's log θ. Adam makes full steps of any that is alone (ours, after Anthropic's loss on the
pre-activations of dead latents, January 2025)."""


@dataclass(frozen=True)
class Auxiliary:
    """Dead latents (D) that are taught to say what the living ones miss."""

    dead: Tensor
    """(D) int64, rising"""
    encoder: Tensor
    """(D, d), as the next two a gradient"""
    encoder_bias: Tensor
    """(D)"""
    decoder: Tensor
    """(D, d)"""
    loss: Tensor
    """()"""


@dataclass(frozen=True)
class Straight:
    """What a JumpReLU's straight-through gradient needs."""

    threshold: Tensor
    """(N)"""
    bandwidth: float
    pull: float
    """Derivative of the whole loss by the number of latents that fire at this process's tokens."""


class Gradient:
    """The gradient of one step over this process's tokens, given out some latents at a time."""

    def __init__(
        self,
        parameters: Parameters,
        c: Tensor,
        codes: Codes,
        missing: Tensor,
        variance: float,
        auxiliary: Auxiliary | None = None,
        straight: Straight | None = None,
    ) -> None:
        """
        Args:
            c: (b, d) centred activations.
            codes: of c; for a JumpReLU the entries' pre-activations within reach of the threshold, fired or not.
            missing: (b, d), r above.
            variance: V of all processes' tokens.
        """
        self.parameters = parameters
        self.c = c
        self.pull = missing * (2 / variance)  # (b, d), derivative of FVU by what the decoder says
        self.entries: ByLatent = by_latent(codes, len(parameters.encoder))
        self.auxiliary = auxiliary
        self.straight = straight
        self.decoder_bias = self.pull.sum(0)

    def of(self, first: int, stop: int) -> dict[str, Tensor]:
        """Gradients of latents first … stop − 1: encoder and decoder (n, d), encoder_bias and log_threshold (n).

        The rows of the parameters have to be those of the forward pass still. Adds to `decoder_bias` (d), which is
        whole when every latent has been asked for once.
        """
        start = self.entries.start[first : stop + 1]
        at = slice(int(start[0]), int(start[-1]))
        start, token, value = start - start[0], self.entries.token[at], self.entries.value[at]
        encoder, decoder = self.parameters.encoder[first:stop], self.parameters.decoder[first:stop]
        found: dict[str, Tensor] = {}
        if len(token) == 0:
            found["decoder"], found["encoder"] = torch.zeros_like(decoder), torch.zeros_like(encoder)
            found["encoder_bias"] = encoder.new_zeros(len(encoder))
            if self.straight is not None:
                found["log_threshold"] = found["encoder_bias"].clone()
        else:
            if self.straight is None:
                found["decoder"], by_value = sums_and_dots(self.pull, token, start, value, decoder)
                by_pre = by_value
            else:
                latent = torch.repeat_interleave(start.diff())  # within the block
                fires = value > self.straight.threshold[first:stop][latent]
                found["decoder"], by_value = sums_and_dots(self.pull, token, start, value * fires, decoder)
                by_pre = by_value * fires
                found["log_threshold"] = self._threshold(first, stop, start, latent, value, by_value)
            found["encoder"] = sums(self.c, token, start, by_pre)
            found["encoder_bias"] = _segments(by_pre, start)
        if self.auxiliary is not None:
            self._add_auxiliary(found, first, stop)
        self.decoder_bias -= found["encoder_bias"] @ encoder
        return found

    def _threshold(
        self, first: int, stop: int, start: Tensor, latent: Tensor, value: Tensor, by_value: Tensor
    ) -> Tensor:
        """The pseudo-derivative by log θ: a rectangle of width ε around the threshold stands in for the jump."""
        assert self.straight is not None
        threshold, width = self.straight.threshold[first:stop], self.straight.bandwidth
        near = (value - threshold[latent]).abs() < width / 2
        jump = -(threshold[latent] * by_value + self.straight.pull) / width
        return _segments(jump * near, start) * threshold

    def _add_auxiliary(self, found: dict[str, Tensor], first: int, stop: int) -> None:
        extra = self.auxiliary
        assert extra is not None
        low, high = torch.searchsorted(
            extra.dead, torch.tensor([first, stop], device=extra.dead.device)
        ).tolist()
        at = extra.dead[low:high] - first
        found["encoder"].index_add_(0, at, extra.encoder[low:high])
        found["decoder"].index_add_(0, at, extra.decoder[low:high])
        found["encoder_bias"].index_add_(0, at, extra.encoder_bias[low:high])
        if self.straight is not None:
            # Beyond the reach of its kernel a threshold has no gradient: those of dead latents sink until they fire.
            found["log_threshold"].index_add_(0, at, torch.full_like(extra.encoder_bias[low:high], SINKING))


def variance_of(c: Tensor, ranks: Ranks) -> float:
    """V, over the tokens (b, d) of all processes."""
    moments = torch.cat([c.sum(0).double(), c.double().square().sum()[None], c.new_tensor([len(c)]).double()])
    moments = ranks.sum(moments)
    total, square, count = moments[:-2], moments[-2], moments[-1]
    return float(square - total.square().sum() / count)


def missing_of(parameters: Parameters, c: Tensor, codes: Codes) -> Tensor:
    """r (b, d)."""
    return decode(codes, parameters.decoder, len(c)) - c


def auxiliary_of(
    parameters: Parameters, c: Tensor, missing: Tensor, dead: Tensor, variance: float, weight: float
) -> Auxiliary:
    """AuxK over the dead latents (D), with its gradient times ``weight``. r is a constant to it."""
    encoder, decoder, width = parameters.encoder[dead], parameters.decoder[dead], c.shape[1]
    most = max(1, width // 2)
    z = torch.addmm(parameters.encoder_bias[dead], c, encoder.T).relu_()  # (b, D)
    if len(dead) > most:
        least = z.kthvalue(len(dead) - most + 1, dim=1, keepdim=True).values
        z *= z >= least
    error = torch.addmm(missing, z, decoder)  # ê + r
    scale = weight * min(1.0, len(dead) / most)
    pull = error * (2 * scale / variance)
    by_pre = (pull @ decoder.T) * (z > 0)
    return Auxiliary(
        dead=dead,
        encoder=by_pre.T @ c,
        encoder_bias=by_pre.sum(0),
        decoder=z.T @ pull,
        loss=scale * error.square().sum() / variance,
    )


def _segments(values: Tensor, start: Tensor) -> Tensor:
    """The sum of each group's values (m), (groups)."""
    ones = values.new_ones(1, 1)
    return sums(ones, torch.zeros_like(start[:1]).expand(len(values)).contiguous(), start, values)[:, 0]
