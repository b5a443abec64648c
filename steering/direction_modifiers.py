"""What directions do to the tokens of a site (see directions.py for v_c, u_c, s_c, τ_c, μ):

    AddDirection   a' = a + α Σ_c w_c v_c                              arXiv 2606.05290
    ProjectOut     a' = a − β w_c ReLU⟨a, u_c⟩ u_c                     CASteer's projection, one category after another
    Clamp          a' = a − β ReLU(⟨a − μ, u_c⟩ − τ_c ‖a − μ‖) u_c     ours, one category after another

ProjectOut takes away what points to the unsafe; Clamp, with β = 1, only what exceeds benign tokens. Both work on each
token by itself. The norm of each changed token can be kept. Strength 0, closed gates and tokens that point nowhere
near the unsafe give back the very tensor that came in; padding (a token of zeros) always stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from .directions import DirectionSet, Weighting
from .errors import SteeringError
from .finite import all_finite, sum_is_finite
from .firing import FiringRecord
from .gates import GateKind, Reading
from .modifiers import Step


@dataclass(frozen=True, eq=False)
class Directional:
    """Score, look at the gates, change what they let through: the common course."""

    directions: DirectionSet
    strength: float
    weighting: Weighting = Weighting.GATED
    keep_norm: bool = True
    """Scale each changed token back to its norm."""

    def __post_init__(self) -> None:
        if not (self.lowest <= self.strength and abs(self.strength) <= torch.finfo(torch.float32).max):
            raise SteeringError(
                "strength",
                expected="a finite number" if self.lowest < 0 else "a finite number, at least 0",
                found=f"{self.strength}",
                remedy="Choose a strength within the node's range.",
            )
        if self.weighting is Weighting.GATED:
            self.directions.require_thresholds("a gate")

    @property
    def lowest(self) -> float:
        """The least strength."""
        return 0.0

    @property
    def width(self) -> int:
        return self.directions.width

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """The changed tokens (R, L, d), in their dtype; the same object where nothing acts.

        Raises:
            SteeringError: an activation is not finite, before or after the change.
        """
        if tokens.numel() == 0 or not self.directions.names:
            return tokens
        x = tokens if tokens.dtype == torch.float64 else tokens.float()
        scores = self.directions.scores(x)  # (R, L, C)
        # One wait for the device, not two.
        finite = sum_is_finite(x) & scores.isfinite().all()
        is_finite, acts = torch.stack([finite, self.acts(x, scores)]).tolist()
        step.require_finite(is_finite or (all_finite(x) and all_finite(scores)))
        if step.observe is not None:
            step.observe(self._record(scores, step))
        if self.strength == 0 or not acts:
            return tokens
        return step.require_held(self.edit(x, scores).to(tokens.dtype), self.strength)

    def acts(self, x: Tensor, scores: Tensor) -> Tensor:
        """Whether anything is to be changed, () bool."""
        raise NotImplementedError

    def edit(self, x: Tensor, scores: Tensor) -> Tensor:
        """The changed tokens (R, L, d); those on which nothing acts keep their bits."""
        raise NotImplementedError

    def _record(self, scores: Tensor, step: Step) -> FiringRecord:
        thresholds = self.directions.thresholds
        highest, place = scores.max(1)
        limits = thresholds.to(scores)
        members = torch.zeros(len(thresholds), 0, dtype=torch.bool)
        codes = scores[..., :0]
        return FiringRecord(
            site=step.site,
            sigma=step.sigma,
            images=step.images,
            grid=step.grid,
            categories=self.directions.names,
            thresholds=thresholds,
            latents=(),
            reading=Reading(GateKind.TOKEN, scores, highest, place, limits, codes, members),
            highest=highest.tolist(),
            is_open=bool((highest > limits).any()),
        )


@dataclass(frozen=True, eq=False)
class AddDirection(Directional):
    """Adds the step from unsafe to safe to every token. `strength` is α; below 0 it goes the other way."""

    strength: float = 5.0
    keep_norm: bool = False

    @property
    def lowest(self) -> float:
        return -torch.finfo(torch.float32).max

    def acts(self, x: Tensor, scores: Tensor) -> Tensor:
        return self._weights(x, scores).any()

    def edit(self, x: Tensor, scores: Tensor) -> Tensor:
        weights, rows = self._weights(x, scores), self.directions.vectors.to(x)
        return kernels.steer_selected(x, weights, rows, self.strength, self.keep_norm)

    def _weights(self, x: Tensor, scores: Tensor) -> Tensor:
        """(R, L, C): none for padding."""
        weights = self.directions.added(scores, self.weighting)[:, None]
        return weights * (x != 0).any(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class ProjectOut(Directional):
    """Takes away what points to the unsafe. `strength` is β: 1 removes it, more pushes beyond."""

    strength: float = 1.0

    def acts(self, x: Tensor, scores: Tensor) -> Tensor:
        weights = self.directions.projected(scores, self.weighting)[:, None]
        return ((x @ self.directions.unsafe.to(x).T > 0) & (weights > 0)).any()

    def edit(self, x: Tensor, scores: Tensor) -> Tensor:
        weights = self.directions.projected(scores, self.weighting)  # (R, C)
        for unsafe, weight in zip(self.directions.unsafe.to(x), weights.T):
            points = (x @ unsafe).relu() * weight[:, None]  # (R, L)
            x = kernels.steer_selected(x, points[..., None], unsafe[None], -self.strength, self.keep_norm)
        return x


@dataclass(frozen=True, eq=False)
class Clamp(Directional):
    """Takes away what points further to the unsafe than benign tokens do. `strength` is β; weights play no part."""

    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.directions.require_thresholds("clamping")

    def acts(self, x: Tensor, scores: Tensor) -> Tensor:
        return self.directions.open(scores).any()

    def edit(self, x: Tensor, scores: Tensor) -> Tensor:
        mean, thresholds = self.directions.mean.to(x), self.directions.thresholds.to(x)
        for unsafe, threshold in zip(self.directions.unsafe.to(x), thresholds):
            away = x - mean
            beyond = (away @ unsafe - threshold * away.norm(dim=-1)).relu() * (x != 0).any(-1)  # (R, L)
            x = kernels.steer_selected(x, beyond[..., None], unsafe[None], -self.strength, self.keep_norm)
        return x


OPERATORS: Mapping[str, type[Directional]] = {"project_out": ProjectOut, "add": AddDirection, "clamp": Clamp}
"""By the names that nodes and commands use."""
