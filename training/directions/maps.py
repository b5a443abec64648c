"""Maps from one encoder's states to another's, fitted on rows that belong together: Procrustes, ridge, a small
network.

Everything here is on centred, standardised rows: x (n, d_s) of the source, y (n, d_t) of the target. `align.py` says
on whose states they may be fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LIMIT = 8.0
"""Robust standard deviations from the median beyond which an entry of a channel is clipped."""
RIDGES = tuple(10.0**e for e in (-4, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1))
"""λ as multiples of the mean variance of the source's channels."""


@dataclass(frozen=True, eq=False)
class Standard:
    """How states are centred, freed of outliers and scaled, channel by channel.

    A few channels of language models are a hundred times as large as all others, and now and then larger still; least
    squares would fit these alone.
    """

    centre: Tensor  # (d)
    scale: Tensor  # (d), positive
    low: Tensor  # (d)
    high: Tensor  # (d)

    @classmethod
    def of(cls, states: Tensor, limit: float = LIMIT) -> Standard:
        """From states (n, d): clipped at ``limit`` robust deviations from the median, then mean and deviation."""
        s = states.double()
        median = s.median(0).values
        spread = 1.4826 * (s - median).abs().median(0).values
        spread = torch.where(spread > 0, spread, s.std(0))
        low, high = median - limit * spread, median + limit * spread
        clipped = s.clamp(low, high)
        scale = clipped.std(0)
        return cls(clipped.mean(0), torch.where(scale > 0, scale, torch.ones_like(scale)), low, high)

    def __call__(self, states: Tensor) -> Tensor:
        """States (n, d) → standardised rows in float64."""
        return (states.double().clamp(self.low, self.high) - self.centre) / self.scale


def orthogonal(x: Tensor, y: Tensor, components: int | None = None) -> Tensor:
    """The Procrustes map W (d_t, d_s): s·U Vᵀ of yᵀx = U Σ Vᵀ, with the best scale s.

    ``components``: both sides are first reduced to so many principal components, which keeps the fit honest where
    rows are fewer than ten times the channels.
    """
    if components is not None:
        px, py = principal(x, components), principal(y, components)
        return py @ orthogonal(x @ px, y @ py) @ px.T
    u, sigma, vt = torch.linalg.svd(y.T @ x, full_matrices=False)
    w = u @ vt
    return w * (sigma.sum() / (x @ w.T).square().sum())


def principal(x: Tensor, components: int) -> Tensor:
    """The first principal directions of centred rows (n, d) → (d, min(components, n, d))."""
    values, vectors = torch.linalg.eigh(x.T @ x)
    kept = min(components, *x.shape)
    return vectors[:, values.argsort(descending=True)[:kept]]


class Ridge:
    """W (d_t, d_s) = yᵀx (xᵀx + λ n v̄ I)⁻¹ for any λ from one decomposition; v̄ is the mean variance of x's channels.

    Of the two products of x with itself the smaller one is decomposed: yᵀx (xᵀx + κI)⁻¹ = yᵀ (xxᵀ + κI)⁻¹ x.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        few = x.shape[0] < x.shape[1]
        self.values, vectors = torch.linalg.eigh(x @ x.T if few else x.T @ x)
        self.unit = float(x.square().sum() / x.shape[1])
        self.left = y.T @ vectors if few else y.T @ x @ vectors
        self.right = vectors.T @ x if few else vectors.T

    def __call__(self, ridge: float) -> Tensor:
        return (self.left / (self.values.clamp_min(0) + ridge * self.unit)) @ self.right


@dataclass(frozen=True, eq=False)
class Network:
    """y = V gelu(W x + b) + c, with one hidden layer."""

    hidden: Tensor  # (h, d_s)
    hidden_bias: Tensor  # (h)
    output: Tensor  # (d_t, h)
    output_bias: Tensor  # (d_t)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.hidden.dtype)
        return F.linear(F.gelu(F.linear(x, self.hidden, self.hidden_bias)), self.output, self.output_bias)

    def moved(self, x: Tensor, v: Tensor) -> Tensor:
        """mean_i [T(x_i + v) − T(x_i)] for rows x (n, d_s), v (d_s) → (d_t)."""
        return (self(x + v) - self(x)).mean(0)


@torch.inference_mode(False)  # a host runs its nodes without gradients
@torch.enable_grad()
def fit_network(
    x: Tensor,
    y: Tensor,
    x_choose: Tensor,
    y_choose: Tensor,
    *,
    hidden: int = 512,
    epochs: int = 60,
    patience: int = 6,
    rate: float = 1e-3,
    decay: float = 1e-2,
    batch: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Network:
    """Least squares by AdamW, stopped where the error on the second set of rows no longer falls."""
    g = torch.Generator().manual_seed(seed)
    x, y, x_choose, y_choose = (t.float().clone() for t in (x, y, x_choose, y_choose))
    d_s, d_t = x.shape[1], y.shape[1]
    weights = [
        torch.randn(hidden, d_s, generator=g) / d_s**0.5,
        torch.zeros(hidden),
        torch.randn(d_t, hidden, generator=g) / hidden**0.5,
        torch.zeros(d_t),
    ]
    parameters = [w.requires_grad_() for w in weights]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    best, best_error, since = [w.detach().clone() for w in weights], float("inf"), 0
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=g).split(batch):
            optimizer.zero_grad()
            F.mse_loss(Network(*parameters)(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            error = float(F.mse_loss(Network(*parameters)(x_choose), y_choose))
        if error < best_error:
            best, best_error, since = [w.detach().clone() for w in weights], error, 0
        else:
            since += 1
        if progress is not None:
            progress(epoch + 1, epochs)
        if since > patience:
            break
    return Network(*best)


def r_squared(predicted: Tensor, y: Tensor) -> float:
    """1 − Σ‖y − ŷ‖² / Σ‖y‖² for rows standardised by the training rows: 0 is as good as their mean."""
    return 1 - float((y - predicted).square().sum() / y.square().sum())


def mean_cosine(predicted: Tensor, y: Tensor) -> float:
    """The mean cosine between corresponding rows."""
    return float(F.cosine_similarity(predicted, y).mean())
