"""Counterfactual tokens in an autoencoder's training mix: both sides of where unsafe tokens turn safe (methods' CAT).

Real tokens lie far from the boundary, so that an autoencoder has little reason to give it latents of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.sites import Site
from ..contrasts.counterfactuals import both_sides, cross
from ..contrasts.probe import fit_probe
from ..recordings import Recording
from ..recordings.categories import category_of, pairs_of
from .config import TrainingConfig
from .data import Data, held_out


def crossing_tokens(recording: Recording, site: Site, config: TrainingConfig, step: float = 0.1) -> Tensor:
    """Tokens (m, d) on both sides of the crossing of every pair, but for prompts that the training holds out.

    Args:
        step: how far from the crossing, as a share of the minimal segment.

    Raises:
        SteeringError: the recording has no unsafe prompts, or a category has no pairs, or none that crosses.
    """
    held = held_out(recording, config)
    names = dict.fromkeys(name for s in recording.manifest.samples if (name := category_of(s)) is not None)
    found: list[Tensor] = []
    for name in names:
        pairs = pairs_of(recording, site, name)
        kept = ~held[pairs.sample_unsafe]
        unsafe, safe = pairs.unsafe[kept], pairs.safe[kept]
        crossings = cross(fit_probe(unsafe, safe), unsafe, safe)
        found.append(both_sides(unsafe, crossings, step))
    if not found:
        raise SteeringError(
            f"{recording.folder}: samples",
            expected="unsafe prompts with safe rewrites",
            found="none",
            remedy="Record pairs, or train without counterfactual tokens.",
        )
    return torch.cat(found)


def with_tokens(data: Data, tokens: Tensor, share: float = 0.1, seed: int = 0, rank: int = 0) -> Data:
    """The same data with a share of each batch replaced by tokens (m, d), drawn by seed, epoch, batch and rank alone.

    The tokens by which training begins and is judged stay as they were.

    Raises:
        SteeringError: there are no tokens, their width is another, or the share is not within 0 and 1.
    """
    if not 0 <= share < 1 or not len(tokens) or tokens.shape[1] != data.width:
        raise SteeringError(
            "training mix",
            expected=f"a share from 0 to below 1, of tokens of width {data.width}",
            found=f"{share} of {list(tokens.shape)}",
            remedy="Take crossing tokens of the very site, and a share such as 0.1.",
        )

    def batches(epoch: int, skip: int) -> Iterator[Tensor]:
        for number, batch in enumerate(data.batches(epoch, skip), skip):
            count = round(share * len(batch))
            place = ((seed * 1_000_003 + epoch) * 1_000_003 + number) * 1_000_003 + rank
            draw = torch.Generator().manual_seed(place % 2**63)
            other = tokens[torch.randint(len(tokens), (count,), generator=draw)]
            yield torch.cat([batch[count:], other.to(batch)])

    return replace(data, batches=batches)
