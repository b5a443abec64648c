"""Counterfactual latent interpolation: the smallest change from the safe side that makes an unsafe token safe.

After CAT (arXiv 2109.04746), whose formulas are not public; these are ours. With a probe of unsafe f(a) = w·a + b and a
matched pair (a⁻ unsafe, a⁺ its safe rewrite),

    h(m) = a⁻ + m ⊙ (a⁺ − a⁻),    m ∈ [0, 1]^d the smallest with f(h) ≤ −margin
    weight = clip(p(safe | h) / p(unsafe | a⁻), 1/10, 10)

The gain of a coordinate is what moving it all the way takes from the log-odds, c_j = −w_j (a⁺ − a⁻)_j. For a linear
probe the smallest mask in ‖m‖₁ is known exactly: the coordinates of the highest gain first, the last one in part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ..latents.codes import Encode
from ..recordings.rows import require_finite
from .probe import Probe

ROWS = 4096
"""Pairs that are in double precision at once."""
LEAST, MOST = 0.1, 10.0
"""Importance weights are clipped to these."""

Masks = Callable[[Tensor, Tensor], Tensor]
"""Gains (n, d) and what each row needs (n) → masks (n, d) in [0, 1], whose gains add up to the need if they can."""


class Crossings(NamedTuple):
    """Where each of n pairs crosses the boundary."""

    points: Tensor
    """(n, d) h; where the boundary is not reached, as near as the mask came."""
    size: Tensor
    """(n) ‖m‖₁; 0 where the probe took the unsafe token for safe already."""
    flipped: Tensor
    """(n) bool: the boundary is reached."""
    weight: Tensor
    """(n) importance, within 1/10 and 10."""


class Directions(NamedTuple):
    """From unsafe to safe: the plain difference of means, and the one with importance weights beside it."""

    plain: Tensor
    """(d) mean of a⁺ − a⁻"""
    weighted: Tensor
    """(d)"""


class Flips(NamedTuple):
    """How latents change between the unsafe token and its crossing point, as weighted shares of the pairs."""

    off: Tensor
    """(N) fire at a⁻ and no longer at h."""
    on: Tensor
    """(N) fire at h and not at a⁻."""


def smallest_masks(gain: Tensor, need: Tensor) -> Tensor:
    """The masks of smallest ‖m‖₁: the greatest gains first. Exact (a fractional knapsack with equal weights)."""
    order = gain.argsort(dim=1, descending=True, stable=True)
    ranked = gain.gather(1, order).clamp_min(0)
    before = ranked.cumsum(1) - ranked
    part = (need[:, None] - before) / ranked.clamp_min(torch.finfo(gain.dtype).tiny)
    filled = torch.where(ranked > 0, part.clamp(0, 1), 0.0)
    return torch.zeros_like(gain).scatter(1, order, filled)


def gradient_masks(gain: Tensor, need: Tensor, steps: int = 5, penalty: float = 0.1) -> Tensor:
    """Masks by gradient ascent on CE − λ‖m‖₁, CE being the probe's loss on the label unsafe.

    d/dm_j (CE − λ‖m‖₁) = p(safe | h) c_j − λ. At a confident probe the first factor vanishes, so λ is ``penalty`` times
    its largest coordinate, and a step has the length 2/steps in the steepest one. Rows stop where they cross, and their
    mask is shrunk onto the boundary. A row may not get there in so few steps.
    """
    top = gain.amax(1, keepdim=True).clamp_min(torch.finfo(gain.dtype).tiny)
    uphill = 2 / steps * (gain / top - penalty)
    m = torch.zeros_like(gain)
    for _ in range(steps):
        short = (m * gain).sum(1) < need
        m = torch.where(short[:, None], (m + uphill).clamp(0, 1), m)
    reached = (m * gain).sum(1)
    return m * torch.where(reached > need, need.clamp_min(0) / reached.clamp_min(1e-300), 1.0)[:, None]


def cross(
    probe: Probe, unsafe: Tensor, safe: Tensor, margin: float = 0.1, masks: Masks = smallest_masks
) -> Crossings:
    """The crossing point of each pair of rows (n, d), in the dtype of ``unsafe``.

    Args:
        margin: how far beyond the boundary, in log-odds.

    Raises:
        SteeringError: rows are missing or not finite, or the sides do not have as many.
    """
    require_pairs(unsafe, safe)
    found: list[Crossings] = []
    for a, b in zip(unsafe.split(ROWS), safe.split(ROWS)):
        difference = b.double() - a.double()
        start = probe.logit(a)
        gain, need = -probe.weight * difference, start + margin
        m = masks(gain, need)
        points = a.double() + m * difference
        end = start - (m * gain).sum(1)
        flipped = end <= -margin + 1e-9 * (1 + start.abs())
        found.append(Crossings(points.to(a), m.sum(1), flipped, importance(start, end)))
    return Crossings(*(torch.cat(parts) for parts in zip(*found)))


def importance(unsafe: Tensor, crossing: Tensor) -> Tensor:
    """clip(p(safe | h) / p(unsafe | a⁻), 1/10, 10) of log-odds of unsafe at a⁻ and at h, each (n)."""
    return (torch.sigmoid(-crossing) / torch.sigmoid(unsafe)).clamp(LEAST, MOST)


def directions(unsafe: Tensor, safe: Tensor, weight: Tensor) -> Directions:
    """The plain and the weighted difference in means of pairs (n, d), float64."""
    require_pairs(unsafe, safe)
    plain, weighted, share = 0.0, 0.0, (weight / weight.sum()).double()
    for a, b, w in zip(unsafe.split(ROWS), safe.split(ROWS), share.split(ROWS)):
        difference = b.double() - a.double()
        plain = plain + difference.sum(0) / len(unsafe)
        weighted = weighted + w.to(difference) @ difference
    assert isinstance(plain, Tensor) and isinstance(weighted, Tensor)  # noqa: PT018  (there is at least one pair)
    return Directions(plain, weighted)


def flips(encode: Encode, unsafe: Tensor, crossings: Crossings, batch: int = 512) -> Flips:
    """Which latents flip inside the minimal segment from a⁻ to h.

    A pre-activation is linear along it, so that of latents that do not compete only the ends count.

    Raises:
        SteeringError: no pair crosses.
    """
    at = _crossing(crossings)
    weight = crossings.weight[at] / crossings.weight[at].sum()
    off: list[Tensor] = []
    on: list[Tensor] = []
    for rows, w in zip(at.split(batch), weight.split(batch)):
        before, after = ((encode(side[rows]) > 0).cpu() for side in (unsafe, crossings.points))
        off.append(w @ (before & ~after).to(w))
        on.append(w @ (after & ~before).to(w))
    return Flips(torch.stack(off).sum(0), torch.stack(on).sum(0))


def select_flips(found: Flips, count: int, least: float = 0.05) -> list[int]:
    """The ``count`` latents that most often fall silent inside the minimal segment, in at least this share of the pairs
    more than they begin to fire; best first. There may be fewer, or none."""
    score = found.off - found.on
    ranked = score.argsort(descending=True, stable=True)[:count]
    return [int(f) for f in ranked if score[f] >= least]


def both_sides(unsafe: Tensor, crossings: Crossings, step: float = 0.1) -> Tensor:
    """Tokens just before and just behind the crossing, (2n, d), for the training mix of an autoencoder.

    Args:
        step: how far from it, as a share of the minimal segment.

    Raises:
        SteeringError: no pair crosses.
    """
    at = _crossing(crossings)
    a, h = unsafe[at], crossings.points[at]
    return torch.cat([torch.lerp(a, h, 1 - step), torch.lerp(a, h, 1 + step)])


def require_pairs(unsafe: Tensor, safe: Tensor) -> None:
    """A SteeringError unless both sides have the same number of finite rows, one at least."""
    if unsafe.shape != safe.shape or not len(unsafe):
        raise SteeringError(
            "pairs",
            expected="as many unsafe rows as safe ones, matched by pair, seed, noise level and position",
            found=f"{list(unsafe.shape)} and {list(safe.shape)}",
            remedy="Record each unsafe prompt with its safe rewrite under the same pair id.",
        )
    require_finite(unsafe, "pairs: unsafe activations")
    require_finite(safe, "pairs: safe activations")


def _crossing(crossings: Crossings) -> Tensor:
    """Numbers of the pairs that were unsafe to the probe and crossed."""
    at = (crossings.flipped & (crossings.size > 0)).nonzero()[:, 0]
    if not len(at):
        raise SteeringError(
            "pairs",
            expected="at least one pair whose safe side the probe tells from the unsafe one",
            found=f"none of {len(crossings.flipped)} that crosses the boundary",
            remedy="The site does not tell this risk; choose another, or record more pairs.",
        )
    return at
