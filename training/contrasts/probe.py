"""A linear probe of unsafe: logistic regression on the activations of one site (the f of methods' CAT).

    p(unsafe | a) = σ(w·a + b),    min over (w, b) of  ½ (CE on unsafe + CE on safe) + λ/2 ‖w ⊙ deviation‖²

Both sides weigh the same however many rows they have. The problem is convex, so that the solution does not depend on a
seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ...evaluation.rates import Rate, wilson
from ...steering.errors import SteeringError
from ..recordings.rows import require_finite

ROWS = 4096
"""Rows that are in double precision at once."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe."""

    weight: Tensor
    """(d) float64"""
    bias: float

    def logit(self, a: Tensor) -> Tensor:
        """Activations (n, d) → log-odds of unsafe (n), float64."""
        return torch.cat([part.double() @ self.weight + self.bias for part in a.split(ROWS)])


@torch.inference_mode(False)  # a host runs its nodes in it, and the optimiser writes in place
@torch.no_grad()
def fit_probe(unsafe: Tensor, safe: Tensor, ridge: float = 1e-2, steps: int = 200) -> Probe:
    """The probe of two sets of activations (n, d) and (m, d), by L-BFGS in float64.

    Args:
        ridge: λ, on weights for activations of unit deviation; it keeps separable sides from infinite weights.
        steps: at most so many of L-BFGS.

    Raises:
        SteeringError: a side is empty, a value is not finite, or nothing tells any two rows apart.
    """
    for name, side in (("unsafe", unsafe), ("safe", safe)):
        if not len(side):
            raise SteeringError(
                f"probe: {name} activations",
                expected="at least one row",
                found="none",
                remedy="Record unsafe prompts and their safe rewrites at this site.",
            )
        require_finite(side, f"probe: {name} activations")
    mean, deviation = _moments(unsafe, safe)
    if not bool((deviation > 0).any()):
        raise SteeringError(
            "probe: activations",
            expected="rows that differ",
            found=f"{len(unsafe) + len(safe)} equal rows",
            remedy="Choose another site or noise level: this one does not depend on the prompt.",
        )
    scale = torch.where(
        deviation > 0, deviation, torch.inf
    ).reciprocal()  # a constant coordinate says nothing
    theta = torch.zeros(len(mean) + 1, dtype=torch.float64, device=unsafe.device)
    sides = ((unsafe, 1.0), (safe, -1.0))

    def closure() -> float:
        weight, bias = theta[:-1], theta[-1]
        loss = 0.5 * ridge * weight.square().sum()
        gradient = torch.cat([ridge * weight, theta.new_zeros(1)])
        for side, sign in sides:
            for x in _standardised(side, mean, scale):
                logit = sign * (x @ weight + bias)
                loss += 0.5 * softplus(-logit).sum() / len(side)
                pull = -0.5 * sign * torch.sigmoid(-logit) / len(side)  # (rows) dCE/dlogit
                gradient += torch.cat([x.T @ pull, pull.sum()[None]])
        theta.grad = gradient
        return float(loss)

    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=steps,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(closure)
    weight = theta[:-1] * scale
    return Probe(weight, float(theta[-1] - weight @ mean))


def accuracy(probe: Probe, unsafe: Tensor, safe: Tensor, unsafe_sample: Tensor, safe_sample: Tensor) -> Rate:
    """The share of samples that a probe takes for what they are, by the mean of their tokens' log-odds.

    Args:
        unsafe_sample, safe_sample: each row's sample (n), (m).
    """
    right, total = 0, 0
    for side, sample, sign in ((unsafe, unsafe_sample, 1), (safe, safe_sample, -1)):
        _, place = sample.unique(return_inverse=True)
        sums = torch.zeros(int(place.max()) + 1 if len(place) else 0, dtype=torch.float64)
        sums.index_add_(0, place.cpu(), probe.logit(side).cpu())
        right += int((sign * sums > 0).sum())
        total += len(sums)
    return wilson(right, total)


def _moments(unsafe: Tensor, safe: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (d) of the two sides at equal weight, exact zero where a coordinate is constant."""
    mean = (unsafe.mean(0, dtype=torch.float64) + safe.mean(0, dtype=torch.float64)) / 2
    variance = torch.zeros_like(mean)
    for side in (unsafe, safe):
        for part in side.split(ROWS):
            variance += (part.double() - mean).square().sum(0) / len(side) / 2
    highest, lowest = torch.maximum(unsafe.amax(0), safe.amax(0)), torch.minimum(unsafe.amin(0), safe.amin(0))
    return mean, variance.sqrt().masked_fill(highest == lowest, 0.0)


def _standardised(side: Tensor, mean: Tensor, scale: Tensor) -> Iterator[Tensor]:
    for part in side.split(ROWS):
        yield (part.double() - mean) * scale
