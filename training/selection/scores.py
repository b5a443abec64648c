"""Which latents stand for a risk: SAeUron's score (Cywiński and Deja, 2501.18052), per sigma bucket.

    p_f(c) = μ_f(c) / Σ_f μ_f(c),    score_f = p_f(unsafe) − p_f(rest)

μ_f(c) is the mean of latent f over the tokens of concept c in one bucket of noise levels. The tokens stream by: what is
kept are sums, C·B·N numbers for C concepts, B buckets and N latents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ..latents.codes import Coded


class ConceptScores(NamedTuple):
    """How particular each latent is to one concept, in each bucket."""

    concept: str
    score: Tensor
    """(B, N); 0 in buckets where one of the sides has no tokens."""
    unsafe: Tensor
    """(B, N) mean over the concept's tokens."""
    rest: Tensor
    """(B, N) mean over all other tokens."""
    seen: Tensor
    """(B) bool: both sides have tokens."""


class Selected(NamedTuple):
    """The latents H of one concept, best first; S of them."""

    latents: tuple[int, ...]
    scores: tuple[float, ...]
    buckets: tuple[int, ...]
    """Where each is most particular."""


class Activity:
    """Running sums of the latents by concept and bucket."""

    def __init__(self, concepts: Sequence[str], buckets: int, latents: int) -> None:
        self.concepts = tuple(concepts)
        self.sums = torch.zeros(len(self.concepts), buckets, latents, dtype=torch.float64)
        """(C, B, N)"""
        self.fired = torch.zeros_like(self.sums)
        """(C, B, N) tokens at which a latent fires."""
        self.counts = torch.zeros(len(self.concepts), buckets, dtype=torch.float64)
        """(C, B) tokens."""

    def add(self, z: Tensor, concept: Tensor, bucket: Tensor) -> None:
        """Takes in latents z (n, N) of tokens with these concepts and buckets (n); below 0 is left out."""
        groups = self.counts.numel()
        key = torch.where((concept < 0) | (bucket < 0), groups, concept * self.counts.shape[1] + bucket)
        member = torch.nn.functional.one_hot(key.long(), groups + 1)[:, :groups].to(z)  # (n, C·B)
        self.sums += (member.T @ z).to(self.sums).view_as(self.sums)
        self.fired += (member.T @ (z > 0).to(z)).to(self.fired).view_as(self.fired)
        self.counts += member.sum(0).to(self.counts).view_as(self.counts)

    def scores(self, concept: str, apart: Collection[str] = ()) -> ConceptScores:
        """The scores of one concept against all others together, but for those that are ``apart``.

        Raises:
            SteeringError: the concept is not known, or in no bucket both it and the rest have tokens.
        """
        if concept not in self.concepts:
            raise SteeringError(
                f"category {concept!r}",
                expected=f"one of {', '.join(self.concepts)}",
                found=repr(concept),
                remedy="Name a category that the recording has.",
            )
        own = torch.tensor([name == concept for name in self.concepts])
        rest = torch.tensor([name != concept and name not in apart for name in self.concepts])
        sides = [_mean(self.sums[side].sum(0), self.counts[side].sum(0)) for side in (own, rest)]
        seen = (self.counts[own].sum(0) > 0) & (self.counts[rest].sum(0) > 0)
        if not seen.any():
            raise SteeringError(
                f"category {concept!r}",
                expected="tokens of it and of other prompts at one noise level at least",
                found=f"{int(self.counts[own].sum())} tokens of it, {int(self.counts[rest].sum())} of others",
                remedy="Record unsafe prompts of this category, and benign ones or safe rewrites, at the same steps.",
            )
        score = unsafe_scores(*sides) * seen[:, None]
        return ConceptScores(concept, score, sides[0], sides[1], seen)

    def firing(self, concept: str) -> Tensor:
        """(N) the share of a concept's tokens at which each latent fires, over all buckets."""
        at = self.concepts.index(concept)
        return self.fired[at].sum(0) / self.counts[at].sum().clamp_min(1)


def measure_activity(
    stream: Iterable[Coded],
    concepts: Sequence[str],
    of_sample: Tensor,
    buckets: int,
    bucket: Callable[[Tensor], Tensor],
    latents: int,
) -> Activity:
    """The activity of a whole stream.

    Args:
        of_sample: (M) each sample's number among ``concepts``; below 0 is left out.
        bucket: noise levels (n) → their buckets (n) of so many ``buckets``; below 0 is left out.
    """
    activity = Activity(concepts, buckets, latents)
    for part in stream:
        activity.add(part.z, of_sample[part.sample], bucket(part.sigma))
    return activity


def shares(mean: Tensor) -> Tensor:
    """Mean latents (..., N) → the share of each in their sum; 0 where nothing fires."""
    return mean / mean.sum(-1, keepdim=True).clamp_min(1e-12)


def unsafe_scores(unsafe: Tensor, rest: Tensor) -> Tensor:
    """Mean latents of unsafe and of other tokens (..., N) → score (..., N), larger is more particular to the unsafe."""
    return shares(unsafe) - shares(rest)


def select(found: ConceptScores, count: int, ratio: float = 4.0) -> Selected:
    """The ``count`` latents with the highest score in any bucket.

    Only where a latent's mean on unsafe tokens is above ``ratio`` times that on others is it a candidate (ours):
    steering along latents that are merely frequent would change everything. There may be fewer than ``count``, or none.
    """
    if count < 1:
        raise SteeringError("count", expected="at least 1 latent", found=f"{count}", remedy="Ask for more.")
    particular = (found.unsafe > ratio * found.rest) & (found.score > 0)
    best, bucket = torch.where(particular, found.score, -torch.inf).max(0)  # (N)
    ranked = [int(f) for f in best.argsort(descending=True, stable=True)[:count] if best[f] > 0]
    return Selected(
        tuple(ranked), tuple(float(best[f]) for f in ranked), tuple(int(bucket[f]) for f in ranked)
    )


def _mean(sums: Tensor, counts: Tensor) -> Tensor:
    return sums / counts.clamp_min(1)[:, None]
