"""Which layer of a source to take directions from: it must tell unsafe from safe, and a map must carry what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from .align import AnchorStates, encode_anchors, fit_map
from .anchors import Benign
from .estimate import pair_means
from .pairs import PromptPairs, require_apart
from .sources import HiddenStates, Layer, Progress

TOLERANCE = 0.05
TRIED = 11
"""Layers that are scored, evenly over the depth."""
SUFFICIENT = 2000
"""Anchors that a layer is scored by."""


class LayerScore(NamedTuple):
    """What is known of one layer."""

    layer: Layer
    auroc: float
    """Of a linear probe on pairs it was not fitted on, the mean over categories."""
    r2: float
    """Of a ridge map on held-out anchors."""
    contrast: float | None
    """Cosine of carried to native benign directions."""

    @property
    def score(self) -> float:
        """AUROC times the contrast, or times R² where no anchors share categories.

        The AUROC of a good encoder is near 1 at every layer, so the second factor decides; and R² favours layers that
        repeat the words (ours).
        """
        return self.auroc * max(0.0, self.r2 if self.contrast is None else self.contrast)


def auroc(unsafe: Tensor, safe: Tensor) -> float:
    """The chance that an unsafe score (n) is above a safe one (m), ties counting half (Mann and Whitney 1947)."""
    scores = torch.cat([unsafe, safe]).double()
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts.double() - 1) / 2)[place]
    n, m = len(unsafe), len(safe)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def probe_auroc(unsafe: Tensor, safe: Tensor, *, shrink: float = 0.1, seed: int = 0) -> float:
    """AUROC of a linear discriminant between token means (n, d) of both sides, each half of the pairs judged by the
    other's.

    The within-class covariance is shrunk towards a multiple of the identity by ``shrink``.
    """
    u, s = unsafe.double(), safe.double()
    order = torch.randperm(len(u), generator=torch.Generator().manual_seed(seed))
    found: list[float] = []
    for fit, judge in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        du, ds = u[fit] - u[fit].mean(0), s[fit] - s[fit].mean(0)
        w = discriminant(torch.cat([du, ds]), u[fit].mean(0) - s[fit].mean(0), shrink)
        found.append(auroc(u[judge] @ w, s[judge] @ w))
    return sum(found) / len(found)


def choose_layer(
    source: HiddenStates,
    pairs: PromptPairs,
    target: HiddenStates | None = None,
    target_layer: Layer = None,
    anchors: Benign | None = None,
    progress: Progress | None = None,
) -> tuple[Layer, list[LayerScore]]:
    """The layer of a source to take directions from, and the scores of those that were tried.

    Without target and anchors there is nothing to score by: it is the one at four fifths of the depth, about where
    the scored choice fell for SmolLM2.

    Raises:
        SteeringError: no layer will do, or texts that an encoder cannot read.
    """
    numbered = [layer for layer in source.layers if layer is not None]
    if len(numbered) < 2:
        return source.layers[0], []
    if target is None or anchors is None:
        return numbered[round(0.8 * (len(numbered) - 1))], []
    require_apart(pairs, anchors.texts)
    tried = [
        numbered[i]
        for i in torch.linspace(0, len(numbered) - 1, min(TRIED, len(numbered))).round().int().tolist()
    ]
    some = anchors.subset(range(0, len(anchors), -(-len(anchors) // SUFFICIENT)))
    sources = encode_anchors(source, tried, some, progress)
    (there,) = encode_anchors(target, (target_layer,), some, progress)
    kept = pairs.select(held_out=False)
    unsafe, safe = pair_means(source, tried, kept, progress)
    scores = score_layers(sources, there, unsafe, safe, kept)
    return best_layer(scores).layer, scores


def discriminant(centred: Tensor, difference: Tensor, shrink: float) -> Tensor:
    """Σ⁻¹ δ with Σ = (1 − s) XᵀX / n + s l I, l the mean variance, of rows X (n, d), by Woodbury's identity."""
    n, d = centred.shape
    level = shrink * centred.square().sum() / (n * d)
    if not level > 0:
        return difference  # no variance within classes: all ways to weigh it are one
    kernel = centred @ centred.T + level * n / (1 - shrink) * torch.eye(n, dtype=centred.dtype)
    return (difference - centred.T @ torch.linalg.solve(kernel, centred @ difference)) / level


def score_layers(
    sources: Sequence[AnchorStates], target: AnchorStates, unsafe: Tensor, safe: Tensor, pairs: PromptPairs
) -> list[LayerScore]:
    """Scores the layers whose anchors and pairs were read: ``unsafe`` and ``safe`` are (layers, n, d) token means."""
    rows: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs.pairs):
        rows.setdefault(pair.category, []).append(i)
    scores: list[LayerScore] = []
    for states, u, s in zip(sources, unsafe, safe):
        probes = [probe_auroc(u[r], s[r]) for r in rows.values()]
        quality = fit_map(states, target, "ridge", null=False).quality
        scores.append(
            LayerScore(states.encoder.layer, sum(probes) / len(probes), quality.r2, quality.contrast)
        )
    return scores


def best_layer(scores: Sequence[LayerScore]) -> LayerScore:
    """The deepest of those whose score is within a twentieth of the best (ours).

    Scores of neighbouring layers hardly differ, and among equals deep layers are the ones that have read whole
    phrases: their directions know more names of a risk than the ones in the pairs.

    Raises:
        SteeringError: none has a score above 0.
    """
    best = max(score.score for score in scores)
    if not best > 0:
        raise SteeringError(
            "layers",
            expected="one that tells unsafe from safe and can be mapped",
            found="none whose held-out R² or contrast is above 0",
            remedy="Use more and broader anchors, or another source.",
        )
    return [score for score in scores if score.score >= (1 - TOLERANCE) * best][-1]
