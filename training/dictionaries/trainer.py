"""One step of training: codes, loss, gradient, Adam, decoder rows back to length 1; and figures of held-out tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .activations import LEAST, BatchTopK, NotFinite, above, firing, ranked, top_k
from .adam import Adam
from .config import TrainingConfig
from .objective import Auxiliary, Gradient, Straight, auxiliary_of, missing_of, variance_of
from .parameters import Parameters
from .ranks import ALONE, Ranks
from .sparse import Codes, decode

BLOCK_BYTES = 2**19
"""Of the dictionary rows that one processor moves at a time: with gradient and moments they fit in its cache."""
LARGE_BLOCK_BYTES = 2**26
"""The same on other devices, and where processes add up gradients."""
EVALUATED_AT_ONCE = 2048

THRESHOLD_RATE, THRESHOLD_SHARE = 0.01, 0.05
"""BatchTopK's threshold is a running mean of the bounds of batches (Bussmann et al., eq. 4) over 1/rate steps, or over
that share of all steps where these are fewer (ours)."""
JUMP_FROM, JUMP_RATE = 0.25, 10.0
"""A JumpReLU trains as BatchTopK for that share of the steps, while activations are far from what they will be, and
takes over its threshold; from then on thresholds learn so much faster than all else, as their logarithms (ours)."""


class Figures(NamedTuple):
    """What one step says of itself, over all processes."""

    loss: float
    fvu: float
    l0: float
    """Latents that fire at a token."""
    dead: float
    """Share of the latents that have not fired for long."""


class Trainer:
    """A dictionary in training. `step` and `evaluate` are called by all processes alike."""

    def __init__(self, config: TrainingConfig, parameters: Parameters, ranks: Ranks = ALONE) -> None:
        """`parameters` are those of the start, and are moved in place."""
        self.config = config
        self.parameters = parameters
        self.ranks = ranks
        self.done = 0
        """Steps that were made."""
        device, latents = parameters.encoder.device, len(parameters.encoder)
        self.idle = torch.zeros(latents, dtype=torch.int64, device=device)
        self.threshold = torch.zeros((), dtype=torch.float64, device=device)
        """BatchTopK's, of all latents; the running mean of its bounds."""
        self.batch_top_k = BatchTopK(config.k, ranks)
        if config.activation == "jumprelu":
            parameters.log_threshold = torch.zeros_like(parameters.encoder_bias)
        self.adam = Adam(parameters.trained())
        self.length = torch.zeros((), dtype=torch.float64, device=device)
        """Of the last step's gradient, thresholds left out; 0 where gradients are plain."""

    @property
    def jumps(self) -> bool:
        """Whether latents have thresholds of their own by now."""
        return self.config.activation == "jumprelu" and self.done >= JUMP_FROM * self.config.steps

    @property
    def width(self) -> int:
        return self.parameters.encoder.shape[1]

    @torch.no_grad()
    def step(self, batch: Tensor) -> Figures:
        """Trains on this process's activations (b, d) of the step's batch.

        Raises:
            NotFinite: an activation, the loss or a weight is NaN or infinite; no parameter was moved.
        """
        config, p = self.config, self.parameters
        c = self._centred(batch.to(p.encoder.device, torch.float32))
        count = self.ranks.total(len(c))
        variance = variance_of(c, self.ranks)
        if not math.isfinite(variance) or variance <= 0:
            what = "the activations are all the same" if variance == 0 else "an activation is NaN or infinite"
            raise NotFinite(what)
        codes, fired, bound = self._codes(c)
        missing = missing_of(p, c, fired)
        fvu, fires = self._sums(missing, fired)
        fvu, l0 = fvu / variance, fires / count
        auxiliary = self._auxiliary(c, missing, variance)
        loss = fvu + (0.0 if auxiliary is None else float(self.ranks.sum(auxiliary.loss)))
        straight = None
        if self.jumps and p.log_threshold is not None:
            off = l0 / config.k - 1
            loss += config.sparsity * off**2
            straight = Straight(
                p.log_threshold.exp(), config.bandwidth, 2 * config.sparsity * off / config.k / count
            )
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss}")
        if self.done == 0 and config.gradients == "normalised":
            # There is no step before whose length it could have, so this one is worked out twice.
            self._measure(Gradient(p, c, codes, missing, variance, auxiliary, straight))
        self._move(Gradient(p, c, codes, missing, variance, auxiliary, straight))
        self._note(fired, count, bound)
        return Figures(loss, fvu, l0, self.dead())

    def _centred(self, batch: Tensor) -> Tensor:
        """c (b, d) of activations (b, d)."""
        return batch.float() * self.parameters.scale - self.parameters.decoder_bias

    def _encoder(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c, rows and bias in the precision of the product."""
        p = self.parameters
        if self.config.precision == "float32":
            return c, p.encoder, p.encoder_bias
        return c.bfloat16(), p.encoder.bfloat16(), p.encoder_bias.bfloat16()

    def _codes(self, c: Tensor) -> tuple[Codes, Codes, float | None]:
        """What may fire at the tokens c (b, d), what of it does, and BatchTopK's bound."""
        encoder = self._encoder(c)
        if self.config.activation == "topk":
            codes = top_k(*encoder, self.config.k)
            return codes, codes, None
        if not self.jumps:
            codes, bound = self.batch_top_k(*encoder)
            return codes, codes, bound
        assert self.parameters.log_threshold is not None
        threshold = self.parameters.log_threshold.exp()
        codes = above(*encoder, threshold - self.config.bandwidth / 2)
        return codes, firing(codes, threshold), None

    def _sums(self, missing: Tensor, fired: Codes) -> tuple[float, float]:
        """Squares that are missing and entries that fire, over all processes."""
        local = torch.stack([missing.square().sum().double(), missing.new_tensor(len(fired.value)).double()])
        square, fires = self.ranks.sum(local).tolist()
        return square, fires

    def _auxiliary(self, c: Tensor, missing: Tensor, variance: float) -> Auxiliary | None:
        dead = (self.idle > self.config.dead_after).nonzero()[:, 0]
        if len(dead) == 0 or self.config.auxiliary == 0:
            return None
        return auxiliary_of(self.parameters, c, missing, dead, variance, self.config.auxiliary)

    def _parts(self, gradient: Gradient) -> Iterator[tuple[str, slice, Tensor]]:
        """The gradient over all processes, some latents at a time: name, rows and what belongs to them.

        The part of a decoder row's gradient that lies along the row is taken out.
        """
        p = self.parameters
        alone_on_cpu = p.encoder.device.type == "cpu" and self.ranks.world == 1
        rows = max(1, (BLOCK_BYTES if alone_on_cpu else LARGE_BLOCK_BYTES) // (4 * self.width))
        for first in range(0, len(p.encoder), rows):
            block = slice(first, min(first + rows, len(p.encoder)))
            for name, part in gradient.of(block.start, block.stop).items():
                part = self.ranks.sum(part)
                if name == "decoder":
                    row = p.decoder[block]
                    part.addcmul_(row, (part * row).sum(1, keepdim=True), value=-1)
                yield name, block, part
        yield "decoder_bias", slice(None), self.ranks.sum(gradient.decoder_bias)

    def _measure(self, gradient: Gradient) -> None:
        """Takes down the length of a gradient."""
        squares = (part.square().sum() for name, _, part in self._parts(gradient) if name != "log_threshold")
        self.length.copy_(sum(squares, torch.zeros_like(self.length)).sqrt())

    def _move(self, gradient: Gradient) -> None:
        """Adam's step, some latents at a time."""
        p, rate = self.parameters, self.config.rate_at(self.done, self.width)
        normalised = self.config.gradients == "normalised"
        shrunk, square = 1 / (float(self.length) or 1.0), torch.zeros_like(self.length)
        for name, block, part in self._parts(gradient):
            if name == "log_threshold":
                self.adam.move(name, block, part, rate * JUMP_RATE, self.done)
                continue
            if normalised:
                square += part.square().sum()
                part.mul_(shrunk)
            self.adam.move(name, block, part, rate, self.done)
            if name == "decoder":
                p.decoder[block].div_(p.decoder[block].norm(dim=1, keepdim=True))
        if normalised:
            self.length.copy_(square.sqrt())

    def _note(self, fired: Codes, count: int, bound: float | None) -> None:
        """Counts the step, and what fired in it."""
        firing = self.ranks.sum(torch.bincount(fired.latent, minlength=len(self.idle)))
        self.idle = torch.where(firing > 0, 0, self.idle + count)
        if bound is not None and math.isfinite(bound):
            rate = max(THRESHOLD_RATE, 1 / (THRESHOLD_SHARE * self.config.steps)) if self.done else 1.0
            self.threshold += min(1.0, rate) * (bound - self.threshold)
        jumped = self.jumps
        self.done += 1
        if self.jumps and not jumped and self.parameters.log_threshold is not None:
            self.parameters.log_threshold.fill_(float(self.threshold.clamp_min(LEAST).log()))

    def dead(self) -> float:
        """The share of latents that have not fired for long."""
        return float((self.idle > self.config.dead_after).double().mean())

    def thresholds(self) -> Tensor | None:
        """θ (N) above which latents fire at inference; None for topk."""
        p = self.parameters
        if self.config.activation == "topk":
            return None
        if self.jumps and p.log_threshold is not None:
            return p.log_threshold.exp()
        return torch.full_like(p.encoder_bias, float(self.threshold))

    @torch.no_grad()
    def evaluate(self, held: Tensor) -> Figures:
        """FVU, L0 and dead share as at inference, of activations (n, d) that all processes hold. In float32."""
        p, thresholds = self.parameters, self.thresholds()
        sums = torch.zeros(self.width + 3, dtype=torch.float64, device=p.encoder.device)
        for part in held[self.ranks.rank :: self.ranks.world].split(EVALUATED_AT_ONCE):
            c = self._centred(part.to(p.encoder.device))
            codes = inferred(c, p, self.config.k, thresholds)
            missing = (decode(codes, p.decoder, len(c)) - c).double().square().sum()
            figures = missing, c.double().square().sum(), missing.new_tensor(float(len(codes.value)))
            sums += torch.cat([torch.stack(figures), c.double().sum(0)])
        (square, whole, fires), total = self.ranks.sum(sums)[:3].tolist(), sums[3:]
        variance = whole - float(total.square().sum()) / max(1, len(held))
        fvu = square / variance if variance > 0 else math.nan
        return Figures(fvu, fvu, fires / max(1, len(held)), self.dead())

    @torch.no_grad()
    def calibrated(self, held: Tensor) -> Tensor:
        """θ (N), one for all, above which k latents fire on average at held-out activations (n, d): for topk (ours)."""
        p, values = self.parameters, []
        for part in held.split(EVALUATED_AT_ONCE):
            c = self._centred(part.to(p.encoder.device))
            codes, _ = BatchTopK(2 * self.config.k)(c, p.encoder, p.encoder_bias)
            values.append(codes.value)
        bound = ranked(torch.cat(values), self.config.k * len(held)) if values else math.inf
        return torch.full_like(p.encoder_bias, bound if math.isfinite(bound) else 0.0)


def inferred(c: Tensor, parameters: Parameters, k: int, thresholds: Tensor | None) -> Codes:
    """Codes of centred activations (n, d) by the rule of inference."""
    if thresholds is None:
        return top_k(c, parameters.encoder, parameters.encoder_bias, k)
    return firing(above(c, parameters.encoder, parameters.encoder_bias, thresholds), thresholds)
