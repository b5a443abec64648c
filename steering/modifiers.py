"""What is done to the tokens of a site: pure functions `(tokens, step) -> tokens`.

With a one token's activation, z = E(a) its code, H the latents that act (gates.py), d_f a row of the decoder:

    Repel   default   a' = a − γ Σ_{f∈H} z_f d_f
            paper     a' = a − γ (D(M_H ⊙ z) − a)         where a gate is open
    Blend   default   a' = a + β Σ_{f∈H} z_f (d^t_f − d^s_f)
            paper     a' = (1 − β) a + β D_t(E_s(a))      where a gate is open

d^t and D_t belong to the decoder adapted to the target domain. The paper's forms are arXiv 2605.30049's, word for
word, and move benign directions as well. The default forms leave untouched what no acting latent says, add no
reconstruction error, and can keep each token's norm. Strength 0 and closed gates give back the very tensor that
came in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from .. import kernels
from .errors import SteeringError
from .finite import all_finite
from .firing import FiringRecord
from .gates import Gate, Reading
from .sae import SelectedLatents
from .sites import Site


@dataclass(frozen=True)
class Step:
    """Where and when a modifier is called: one visit of one site."""

    site: Site
    sigma: float
    """The noise level, in the model's own units; infinite before a run begins."""
    images: tuple[int, ...] = ()
    """(R) which picture of the batch each row belongs to."""
    grid: tuple[int, int] | None = None
    """Height and width of the generated picture in tokens; None where the tokens are not a whole picture."""
    seed: int | None = None
    observe: Callable[[FiringRecord], None] | None = None

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.site} at sigma {self.sigma:.4g}" if math.isfinite(self.sigma) else str(self.site)

    def require_finite(self, finite: bool) -> None:
        """A SteeringError unless the model's activation is finite."""
        if not finite:
            raise SteeringError(
                self.where,
                expected="finite activations and scores",
                found="NaN or infinite numbers in the model's activation",
                remedy="The model itself overflows here. Run it in bfloat16 or float32, or choose another checkpoint.",
            )

    def require_held(self, changed: Tensor, strength: float) -> Tensor:
        """What came of steering, or a SteeringError if its dtype could not hold it."""
        if not all_finite(changed):
            raise SteeringError(
                self.where,
                expected=f"numbers that {changed.dtype} can hold",
                found=f"an overflow after steering with strength {strength:g}",
                remedy="Lower the strength, or keep the norm.",
            )
        return changed


class Modifier(Protocol):
    """A frozen value that changes, or only watches, the tokens (R, L, d) of a site. It writes into nothing."""

    @property
    def width(self) -> int | None:
        """The d that it needs; None takes any."""
        ...

    def __call__(self, tokens: Tensor, step: Step) -> Tensor: ...


class Form(str, Enum):
    """Which equation: ours, which changes nothing else, or the paper's, word for word."""

    DEFAULT = "default"
    PAPER = "paper"


@dataclass(frozen=True, eq=False)
class Gated:
    """Encode, look at the gates, change what they let through: the common course of Repel and Blend."""

    latents: SelectedLatents
    gate: Gate
    strength: float
    keep_norm: bool = True
    """Scale each changed token back to its norm; the paper's forms never do."""
    form: Form = Form.DEFAULT

    def __post_init__(self) -> None:
        # A linked input comes past the widget's bounds, and less than nothing would add what should go.
        if not 0 <= self.strength <= torch.finfo(torch.float32).max:
            raise SteeringError(
                "strength",
                expected="a finite number, at least 0",
                found=f"{self.strength}",
                remedy="Choose a strength within the node's range.",
            )

    @property
    def width(self) -> int:
        return self.latents.width

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """The changed tokens (R, L, d), in their dtype; the same object where nothing acts.

        Raises:
            SteeringError: an activation or a score is not finite, before or after the change.
        """
        if tokens.numel() == 0 or not self.gate.names:
            return tokens
        x = tokens if tokens.dtype == torch.float64 else tokens.float()
        z = self.latents.encode(x)  # (R, L, S)
        reading = self.gate.read(z)
        # A token that is not finite has no finite pre-activation, nor any finite score: even a latent that does not
        # fire makes a NaN of it.
        highest: list[list[float]] = reading.highest.tolist()  # waits for the device
        step.require_finite(all(math.isfinite(score) for row in highest for score in row))
        is_open = self.gate.is_open(reading, highest)
        if step.observe is not None:
            step.observe(
                FiringRecord(
                    site=step.site,
                    sigma=step.sigma,
                    images=step.images,
                    grid=step.grid,
                    categories=self.gate.names,
                    thresholds=self.gate.image,
                    latents=self.latents.latents,
                    reading=reading,
                    highest=highest,
                    is_open=is_open,
                )
            )
        if self.strength == 0 or not is_open:
            return tokens
        return step.require_held(self.edit(x, reading).to(tokens.dtype), self.strength)

    def edit(self, x: Tensor, reading: Reading) -> Tensor:
        """The changed activations (R, L, d); tokens with closed gates keep their bits."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Repel(Gated):
    """Takes away what the open latents say. `strength` is γ: 1 removes it, more goes beyond."""

    strength: float = 1.0

    def edit(self, x: Tensor, reading: Reading) -> Tensor:
        if self.form is Form.PAPER:
            literal = x - self.strength * (self.latents.decode(reading.acting, x) - x)
            return torch.where(reading.open.any(-1, keepdim=True), literal, x)
        z = self.latents.weigh(reading.acting, x)
        with self.latents.directions(x) as rows:
            return kernels.steer_selected(x, z, rows, -self.strength, self.keep_norm)


@dataclass(frozen=True, eq=False)
class Blend(Gated):
    """Says what the open latents say in the adapted decoder's words. `strength` is β: 1 replaces them."""

    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.latents.require_adapted()
        if self.form is Form.PAPER:
            self.latents.require_whole("the paper's Blend")

    def edit(self, x: Tensor, reading: Reading) -> Tensor:
        if self.form is Form.PAPER:
            literal = (1 - self.strength) * x + self.strength * self.latents.reconstruct_adapted(x)
            return torch.where(reading.open.any(-1, keepdim=True), literal, x)
        z = self.latents.weigh(reading.acting, x)
        with self.latents.directions(x) as source, self.latents.adapted_directions(x) as target:
            return kernels.steer_selected(x, z, target - source, self.strength, self.keep_norm)
