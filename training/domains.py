"""What decoder adaptation learns from, as streams over recordings: a target domain, and the source domain replayed."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from ..steering.errors import SteeringError
from ..steering.sites import Site
from .adaptation import Stream
from .adaptation_terms import Examples
from .recordings import Pairs, Recording

SAFE_SIDE = ("safe", "benign")


def rows_of(
    recording: Recording,
    site: Site,
    batch: int,
    seed: int = 0,
    *,
    labels: Collection[str] | None = SAFE_SIDE,
    categories: Collection[str] | None = None,
) -> Stream:
    """Activations of some prompts of a recording, by default of the safe side: safe rewrites and benign prompts.

    The stream raises SteeringError where the recording has fewer such rows than a batch, or lacks the site.
    """

    def batches(epoch: int, skip: int) -> Iterator[Examples]:
        stream = recording.stream(
            site, batch, seed=seed, epoch=epoch, labels=labels, categories=categories, skip=skip
        )
        return (Examples(rows.tokens) for rows in stream)

    return batches


def towards_safe(pairs: Pairs, batch: int, seed: int = 0) -> Stream:
    """Unsafe activations with the way to their safe rewrites. The last batch of an epoch may be smaller.

    Raises:
        SteeringError: there are no pairs.
    """
    if not len(pairs.unsafe):
        raise SteeringError(
            "recording: pairs",
            expected="unsafe tokens beside those of their safe rewrites",
            found="none",
            remedy="Record unsafe prompts with their safe rewrites, or adapt to the safe side alone.",
        )

    def batches(epoch: int, skip: int) -> Iterator[Examples]:
        draw = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(pairs.unsafe), generator=draw)
        for rows in order[skip * batch :].split(batch):
            if len(rows):
                yield Examples(pairs.unsafe[rows], pairs.safe[rows] - pairs.unsafe[rows])

    return batches
