"""Thresholds in place of the competition of a TopK dictionary, so that steering needs only the chosen rows (ours).

    θ_f = argmin_θ  #{tokens : [p_f > θ] ≠ [f among the k largest p, p_f > 0]}      over calibration tokens

A latent that hardly ever is among the k largest gets the one threshold at which k latents fire on average instead.
What is said of the result, precision and recall of "above its threshold ⇒ among the k largest", is of the very tokens
that set it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.formats.bundle import Bundle
from ...steering.formats.header import Made
from ...steering.formats.rows import OpenContainer
from ...steering.formats.writing import write_bundle
from ...steering.sae import SelectedLatents
from ...steering.sites import Site
from ..recordings.rows import require_finite

BINS = 256
LEAST = 16
"""Tokens at which a latent has to be among the k largest before it gets a threshold of its own."""
RECIPE = "topk_thresholds"
"""What a bundle's recipe calls this."""


class Thresholds(NamedTuple):
    """What was found at one site."""

    threshold: Tensor
    """(N) float32"""
    k: int
    tokens: int
    own: int
    """Latents with a threshold of their own."""
    precision: float
    """Of what is above its threshold, the share that is among the k largest."""
    recall: float
    """Of what is among the k largest and positive, the share that is above its threshold."""
    mean_count: float
    """Latents above their thresholds at a token; k in training."""

    def described(self) -> dict[str, Any]:
        """As a bundle's recipe has it."""
        return {name: value for name, value in self._asdict().items() if name != "threshold"}


def topk_thresholds(pre: Iterable[Tensor], k: int) -> Thresholds:
    """Calibrates on a stream of pre-activations (n, N); counts in bins are all that is kept of it.

    Raises:
        SteeringError: the stream is empty or a number is not finite.
        ValueError: k is not from 1 to N.
    """
    inside = outside = torch.empty(0)
    width, tokens = 0.0, 0
    for p in pre:
        p = require_finite(p, "pre-activations").float()
        if not 1 <= k <= p.shape[1]:
            raise ValueError(f"k must be from 1 to {p.shape[1]}, as many latents as there are, not {k}")
        if len(p) == 0:
            continue
        among = torch.zeros_like(p, dtype=torch.bool)
        kth, where = p.topk(k)
        among.scatter_(1, where, True)
        if not tokens:
            # Twice the highest bar of the first tokens; what is above it, is above nearly every bar.
            width = max(2 * float(kth[:, -1].max()), float(p.max()) / 8, 1e-30) / BINS
            inside, outside = (torch.zeros(p.shape[1], BINS, dtype=torch.int32) for _ in range(2))
        tokens += len(p)
        place = (p / width).clamp_(0, BINS - 1).long() + BINS * torch.arange(p.shape[1])
        for counts, some in ((inside, among), (outside, ~among)):
            counts += place[some & (p > 0)].bincount(minlength=counts.numel()).view_as(counts)
    if not tokens:
        raise SteeringError(
            "pre-activations",
            expected="those of some tokens",
            found="none",
            remedy="Record some prompts.",
        )
    inside, outside = _above(inside), _above(outside)
    own = inside[:, 0] >= LEAST
    total = (inside + outside).sum(0).double() / tokens  # (BINS + 1), latents that fire at each threshold
    at = torch.where(own, _best(inside - outside), (total - k).abs().argmin())
    right, wrong = (counts.gather(1, at[:, None]).sum().item() for counts in (inside, outside))
    return Thresholds(
        threshold=(at * width).float(),
        k=k,
        tokens=tokens,
        own=int(own.sum()),
        precision=right / max(1, right + wrong),
        recall=right / max(1, int(inside[:, 0].sum())),
        mean_count=(right + wrong) / tokens,
    )


def thresholds_at(latents: SelectedLatents, activations: Iterable[Tensor], batch: int = 512) -> Thresholds:
    """`topk_thresholds` of a whole TopK dictionary from activations (n, d) of its site.

    Raises:
        SteeringError: it is no TopK dictionary or not whole, or as `topk_thresholds`.
    """
    if latents.sae.activation != "topk" or latents.sae.k is None:
        raise SteeringError(
            latents.source,
            expected="a TopK dictionary",
            found=latents.sae.activation,
            remedy="Leave it as it is: each of its latents decides by itself already.",
        )
    latents.require_whole("calibrating thresholds")
    parts = (part for some in activations for part in some.split(batch))
    return topk_thresholds((latents.pre_activations(part) for part in parts), latents.sae.k)


def write_thresholds(path: Path, bundle: Bundle, found: Mapping[Site, Thresholds]) -> Bundle:
    """Writes a bundle with thresholds at some of its sites, which its recipe says; all else stays as it was."""
    header = bundle.header
    said = {str(site): thresholds.described() for site, thresholds in found.items()}
    recipe = {**header.made.recipe, RECIPE: {**header.made.recipe.get(RECIPE, {}), **said}}
    with OpenContainer(bundle.container) as file:
        tensors = {name: file.whole(name) for name in bundle.container.tensors}
    tensors |= {f"{site}.threshold": thresholds.threshold for site, thresholds in found.items()}
    return write_bundle(path, replace(header, made=Made(header.made.by, recipe)), tensors)


def _above(counts: Tensor) -> Tensor:
    """Counts in bins (N, BINS) → how many lie in each bin or a higher one, and in none, (N, BINS + 1)."""
    sums = counts.long().flip(1).cumsum(1).flip(1)
    return torch.cat([sums, torch.zeros_like(sums[:, :1])], 1)


def _best(score: Tensor) -> Tensor:
    """Where each row (N, BINS + 1) is highest first, in the middle of as many bins as are equally high."""
    high = score == score.max(1, keepdim=True).values
    first = high.int().argmax(1)
    after = torch.arange(score.shape[1]) > first[:, None]
    ends = torch.cat([~high & after, torch.ones_like(high[:, :1])], 1).int().argmax(1)
    return (first + ends - 1) // 2
