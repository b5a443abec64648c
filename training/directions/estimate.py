"""The direction from unsafe to safe in an encoder's states: a difference in means over pairs (2606.05290, equation
1).

    v = Σ_i w_i [μ(h(x_i⁺)) − μ(h(x_i⁻))] / Σ_i w_i,     μ the mean over tokens, x⁺ the safe side, w = 1 unless given

Each comes with how sure it is: bootstrap intervals over pairs, and the cosine between the directions of two halves of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...steering.directions import DirectionSet
from ...steering.errors import SteeringError
from ...steering.formats.directions import GLOBAL, Direction, DirectionSite, Encoder
from ..contrasts.counterfactuals import cross
from ..contrasts.probe import fit_probe
from .pairs import PromptPairs
from .sources import HiddenStates, Layer, Progress, token_means

FEWEST = 4
"""Pairs of a category below which there is nothing to halve."""


@dataclass(frozen=True, eq=False)
class Difference:
    """From unsafe to safe, for one category."""

    vector: Tensor  # (d) in float32
    pairs: int
    norm_interval: tuple[float, float]
    """95 % bootstrap interval of the length."""
    cosine_low: float
    """95 % of bootstrapped directions have at least this cosine to the vector."""
    split_half: float
    """The mean cosine between the directions of two random halves of the pairs; near 0 is noise."""


class Estimate(NamedTuple):
    """What pairs say at one layer of one encoder."""

    directions: DirectionSet
    """By category, then `global`; around the mean of the safe sides."""
    evidence: Mapping[str, Difference]
    pairs_sha256: str


def difference_in_means(unsafe: Tensor, safe: Tensor, weights: Tensor | None = None) -> Tensor:
    """Token means of both sides (n, d), importance weights (n) that are not negative → the direction (d) in float32."""
    differences = safe.double() - unsafe.double()
    w = torch.ones(len(differences), dtype=torch.float64) if weights is None else weights.double()
    return ((w @ differences) / w.sum()).float()


def estimate(
    unsafe: Tensor, safe: Tensor, weights: Tensor | None = None, *, draws: int = 1000, seed: int = 0
) -> Difference:
    """A direction from token means of both sides (n, d), and how sure it is. Deterministic by seed.

    ``weights`` (n) are importance weights, such as those of counterfactuals. The bootstrap draws pairs, not prompts.

    Raises:
        SteeringError: fewer than 4 pairs, weights that are negative or all zero, or no difference at all.
    """
    n = len(unsafe)
    if n < FEWEST or unsafe.shape != safe.shape:
        raise SteeringError(
            "pairs",
            expected=f"at least {FEWEST} pairs of states of one width",
            found=f"states {tuple(unsafe.shape)} and {tuple(safe.shape)}",
            remedy="Add pairs to this category, or leave it out.",
        )
    w = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
    if w.shape != (n,) or not bool((w >= 0).all()) or not float(w.sum()) > 0:
        raise SteeringError(
            "weights",
            expected=f"{n} weights from 0 up, one at least above it",
            found=f"{tuple(w.shape)} weights from {float(w.min()) if len(w) else 0:.3g} up",
            remedy="Leave the weights out, or make them again for these pairs.",
        )
    differences = safe.double() - unsafe.double()
    vector = (w @ differences) / w.sum()
    if not float(vector.norm()) > 1e-12 * float(unsafe.double().norm() + 1e-30):
        raise SteeringError(
            "pairs",
            expected="a difference between the unsafe and the safe side",
            found="none on average",
            remedy="Write safe sides that lack the risk and all unsafe sides that have it.",
        )
    g = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(
        torch.ones(n, dtype=torch.float64).expand(draws, n), n, replacement=True, generator=g
    )
    counts = torch.zeros(draws, n, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(draws, n, dtype=torch.float64)
    )
    counts = counts * w
    samples = (counts @ differences) / counts.sum(1, keepdim=True).clamp_min(1e-300)
    norms = torch.quantile(samples.norm(dim=1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    cosines = F.cosine_similarity(samples, vector[None])
    return Difference(
        vector=vector.float(),
        pairs=n,
        norm_interval=(float(norms[0]), float(norms[1])),
        cosine_low=float(torch.quantile(cosines, 0.05)),
        split_half=split_half(differences, w, seed=seed),
    )


def counterfactual_weights(unsafe: Tensor, safe: Tensor, pairs: PromptPairs) -> Tensor:
    """CAT's importance of each pair (contrasts/counterfactuals.py) from its token means (n, d) → (n).

    Its mean is 1 in each category.

    A pair counts more where the smallest change that a linear probe of its category takes for safe is a clear one.
    """
    weights = torch.ones(len(unsafe), dtype=torch.float64)
    for rows in _by_category(pairs).values():
        u, s = unsafe[rows], safe[rows]
        found = cross(fit_probe(u, s), u, s).weight.double()
        weights[rows] = found / found.mean()
    return weights


def split_half(
    differences: Tensor, weights: Tensor | None = None, *, splits: int = 100, seed: int = 0
) -> float:
    """Differences (n, d) → the mean cosine between the means of two random halves, over many ways to halve them."""
    n = len(differences)
    d = differences.double()
    w = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
    g = torch.Generator().manual_seed(seed)
    order = torch.rand(splits, n, generator=g).argsort(dim=1)
    first = torch.zeros(splits, n, dtype=torch.float64).scatter_(1, order[:, : n // 2], 1.0)
    return float(F.cosine_similarity((first * w) @ d, ((1 - first) * w) @ d).mean())


def estimate_directions(
    source: HiddenStates,
    layer: Layer,
    pairs: PromptPairs,
    *,
    weights: Sequence[float] | None = None,
    counterfactual: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Estimate:
    """The direction of every category and of all pairs, at one layer of an encoder. Held-out pairs are left out.

    ``weights`` has one number a pair that is not held out; ``counterfactual`` makes them.

    Raises:
        SteeringError: too few pairs, or texts that the encoder cannot read.
    """
    kept = pairs.select(held_out=False)
    unsafe, safe = pair_means(source, (layer,), kept, progress)
    w = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    if counterfactual:
        w = counterfactual_weights(unsafe[0], safe[0], kept)
    return estimate_from(unsafe[0], safe[0], kept, Encoder(source.name, source.fingerprint(), layer), w, seed)


def estimate_from(
    unsafe: Tensor,
    safe: Tensor,
    pairs: PromptPairs,
    at: Encoder,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Estimate:
    """As `estimate_directions`, from the pairs' token means (n, d)."""
    groups = _by_category(pairs)
    if len(groups) > 1:
        groups[GLOBAL] = list(range(len(pairs.pairs)))
    found: dict[str, Difference] = {}
    for category, rows in groups.items():
        try:
            found[category] = estimate(
                unsafe[rows], safe[rows], None if weights is None else weights[rows], seed=seed
            )
        except SteeringError as refusal:
            raise SteeringError(
                f"category {category!r}: {refusal.where}",
                expected=refusal.expected,
                found=refusal.found,
                remedy=refusal.remedy,
            ) from refusal
    about = DirectionSite(unsafe.shape[1], at, tuple(Direction(name) for name in found))
    vectors = torch.stack([difference.vector for difference in found.values()])
    return Estimate(DirectionSet(about, vectors, safe.mean(0), at.name), found, pairs.sha256)


def pair_means(
    source: HiddenStates, layers: Sequence[Layer], pairs: PromptPairs, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Token means of both sides, each (len(layers), n, d). A text that several pairs share is read once.

    Raises:
        SteeringError: a category has too few pairs, or texts that the encoder cannot read.
    """
    for category, count in pairs.counts().items():
        if count < FEWEST:
            raise SteeringError(
                f"category {category!r}: pairs",
                expected=f"at least {FEWEST} pairs",
                found=f"{count}",
                remedy="Add pairs to this category, or leave it out.",
            )
    texts = list(dict.fromkeys(text for pair in pairs.pairs for text in (pair.unsafe, pair.safe)))
    if not texts:
        raise SteeringError(
            "pairs", expected="pairs that are not held out", found="none", remedy="Give pairs to learn from."
        )
    number = {text: i for i, text in enumerate(texts)}
    means = token_means(source, texts, layers, progress)
    unsafe = means[:, [number[pair.unsafe] for pair in pairs.pairs]]
    return unsafe, means[:, [number[pair.safe] for pair in pairs.pairs]]


def _by_category(pairs: PromptPairs) -> dict[str, list[int]]:
    """Numbers of pairs."""
    groups: dict[str, list[int]] = {name: [] for name in pairs.counts()}
    for i, pair in enumerate(pairs.pairs):
        groups[pair.category].append(i)
    return groups
