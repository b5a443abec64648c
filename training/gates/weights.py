"""The weights of a gate: which of a category's latents tell its prompts from all others, and how well each does (ours).

    s = max over tokens of Σ_f w_f z_f,    w ≥ 0

A prompt is unsafe where any of its tokens is, and which token that is nobody has written down. So this is learning from
bags (Andrews et al. 2002, MI-SVM): in turn, each picture at a noise level stands for itself by the token that scores
highest, and logistic regression is fitted to those tokens. Weights below 0, which a bundle's gate does not know, are
kept out by projecting each step (FISTA, Beck and Teboulle 2009).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...steering.sites import Site
from ..latents.codes import Dictionary, coded, heard, some_latents
from ..recordings import Recording
from ..recordings.categories import category_of
from ..recordings.rows import taken
from ..selection.choosing import Selection, require_fitting

MOST_TOKENS = 400_000
"""That are learnt from, of whole pictures."""


@dataclass(frozen=True)
class WeightRule:
    """How weights are fitted."""

    rounds: int = 8
    """Of choosing tokens and fitting them."""
    steps: int = 200
    """Of a fit."""
    ridge: float = 1e-3
    """Of the squared weights, of latents scaled to a standard deviation of 1."""


def gate_weights(
    sae: Dictionary,
    recording: Recording,
    site: Site,
    latents: Mapping[str, Sequence[int]],
    rule: WeightRule = WeightRule(),
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, tuple[float, ...]]:
    """The weight of each latent of each category, in their order; the mean of a category's is 1.

    Use the recording that chose the latents: thresholds are set on another.

    Args:
        progress: hears how many tokens were learnt from since.

    Raises:
        SteeringError: the recording lacks the site, or an activation is not finite.
    """
    require_fitting(sae, recording, site)
    union = sorted({latent for of in latents.values() for latent in of})
    if not union:
        return {}
    kept = _some(len(recording.manifest.samples), MOST_TOKENS / max(recording.count(site), 1))
    stream = heard((taken(rows, kept[rows.sample]) for rows in recording.shards(site)), progress)
    parts = list(coded(stream, some_latents(sae, union), batch=8192))
    z = torch.cat([part.z.cpu() for part in parts])
    sample = torch.cat([part.sample for part in parts])
    sigma = torch.cat([part.sigma for part in parts])
    _, level = sigma.unique(return_inverse=True)
    _, bag = (sample * (int(level.max()) + 1) + level).unique(return_inverse=True)
    kinds = [category_of(s) for s in recording.manifest.samples]
    found: dict[str, tuple[float, ...]] = {}
    for name, own in latents.items():
        if not own:
            continue
        columns = [union.index(latent) for latent in own]
        unsafe = torch.tensor([kind == name for kind in kinds])[sample]
        safe = torch.tensor([kind is None for kind in kinds])[sample]
        fits = unsafe | safe
        _, numbered = bag[fits].unique(return_inverse=True)
        found[name] = tuple(fit_bags(z[fits][:, columns], numbered, unsafe[fits], rule).tolist())
    return found


def weighed(
    selection: Selection,
    sae: Dictionary,
    recording: Recording,
    progress: Callable[[int], None] | None = None,
) -> Selection:
    """A selection with the weights that its latents have in gates, by the recording that chose them."""
    found = gate_weights(sae, recording, selection.site, selection.latents, progress=progress)
    return dataclasses.replace(selection, weights=found)


def fit_bags(z: Tensor, bag: Tensor, unsafe: Tensor, rule: WeightRule = WeightRule()) -> Tensor:
    """Weights (S) at least 0 under which the highest token of unsafe bags is above that of others; their mean is 1.

    Where nothing tells the two apart, all weigh the same.

    Args:
        z: (n, S) latents of tokens, at least 0.
        bag: (n) numbers from 0.
        unsafe: (n) bool: of the token's bag.
    """
    scale = z.std(0).clamp_min(1e-6)
    x = z / scale
    count = int(bag.max()) + 1
    label = torch.zeros(count, dtype=torch.bool).index_put((bag,), unsafe)
    # It begins as if every token of an unsafe bag were unsafe: what both sides say cancels out.
    weights = fit_logistic(x, unsafe, rule)
    mined = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(rule.rounds):
        highest = highest_of_bags(x @ weights, bag, count)
        mined[highest[~label]] = (
            True  # once high, always a counterexample: without it, rounds undo each other
        )
        tokens = torch.cat([highest[label], mined.nonzero()[:, 0]])
        fitted = fit_logistic(x[tokens], unsafe[tokens], rule)
        if not bool(fitted.any()):
            break
        weights = fitted
    weights = weights / scale
    total = float(weights.sum())
    return weights * (len(weights) / total) if total > 0 else torch.ones_like(weights)


def _some(count: int, share: float) -> Tensor:
    """(count) bool: such a share of the samples, the same at each call."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.zeros(count, dtype=torch.bool).index_fill(0, order[: math.ceil(min(share, 1) * count)], True)


def highest_of_bags(score: Tensor, bag: Tensor, count: int) -> Tensor:
    """The number (count) of the token with the highest score (n) in each bag, the first of equals."""
    best = torch.full((count,), -torch.inf).scatter_reduce(0, bag, score, "amax")
    at = torch.arange(len(score))
    first = torch.full((count,), len(score))
    return first.scatter_reduce(0, bag, torch.where(score == best[bag], at, len(score)), "amin")


def fit_logistic(x: Tensor, label: Tensor, rule: WeightRule = WeightRule()) -> Tensor:
    """w (S) ≥ 0 of the logistic regression of labels (n) bool on rows x (n, S), both sides weighing the same.

    The least of  mean of log(1 + exp(∓(x·w + b)))  over each side, halved, plus  ridge ‖w‖² / 2.
    """
    sign = torch.where(label, 1.0, -1.0)
    share = torch.where(label, 0.5 / label.sum().clamp_min(1), 0.5 / (~label).sum().clamp_min(1))
    rows = torch.cat([x, torch.ones(len(x), 1)], 1)
    ridge = torch.full((rows.shape[1],), rule.ridge)
    ridge[-1] = 0
    rate = 1 / (0.25 * float(torch.linalg.eigvalsh((rows * share[:, None]).T @ rows)[-1]) + rule.ridge)
    w = ahead = torch.zeros(rows.shape[1])
    momentum = 1.0
    for _ in range(rule.steps):
        slope = -sign * share * torch.sigmoid(-sign * (rows @ ahead))
        moved = ahead - rate * (rows.T @ slope + ridge * ahead)
        moved[:-1].clamp_(min=0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / following * (moved - w)
        w, momentum = moved, following
    return w[:-1]
