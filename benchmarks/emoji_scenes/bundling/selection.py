"""Which latents stand for a risk: SAeUron's score (Cywiński and Deja, 2501.18052).

p_f(c) = μ_f(c) / Σ_f μ_f(c),  score_f = p_f(unsafe) − p_f(rest),  μ_f(c) the mean of latent f over the tokens of c.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shares(mean: Tensor) -> Tensor:
    """Mean latents (N,) → the share of each in their sum."""
    return mean / mean.sum().clamp_min(1e-12)


def unsafe_scores(unsafe: Tensor, rest: Tensor) -> Tensor:
    """Mean latents of unsafe and of other tokens, each (N,) → score (N,), larger is more particular to the unsafe."""
    return shares(unsafe) - shares(rest)


def select(scores: Tensor, unsafe: Tensor, rest: Tensor, count: int, ratio: float = 4.0) -> list[int]:
    """The ``count`` best latents whose mean on unsafe tokens is at least ``ratio`` times that on others (ours).

    The ratio keeps out latents that are merely frequent: steering along them would change everything.
    """
    particular = (unsafe > ratio * rest) & (scores > 0)
    ranked = torch.where(particular, scores, -torch.inf).argsort(descending=True)
    return [int(i) for i in ranked[:count] if particular[i]]
