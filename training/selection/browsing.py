"""Where latents fire most: the samples and tokens to look at before one believes what a latent means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...steering.sites import Site
from ..latents.codes import Coded, Dictionary, coded, heard, some_latents
from ..recordings import Recording
from .choosing import require_fitting


class Peak(NamedTuple):
    """A latent's highest value in one sample."""

    sample: int
    value: float
    position: int
    """The token's place in its stream."""
    sigma: float


def top_samples(
    sae: Dictionary,
    recording: Recording,
    site: Site,
    latents: Sequence[int],
    count: int = 6,
    progress: Callable[[int], None] | None = None,
) -> dict[int, list[Peak]]:
    """For each latent the samples in which it fires most, highest first; at most ``count``, none where it never fires.

    ``progress`` hears how many tokens were read since.

    Raises:
        SteeringError: the recording lacks the site or a latent is not of this autoencoder.
    """
    require_fitting(sae, recording, site)
    stream = coded(heard(recording.shards(site), progress), some_latents(sae, latents), batch=8192)
    found = peaks(stream, len(recording.manifest.samples), len(latents), count)
    return dict(zip(latents, found))


def peaks(stream: Iterable[Coded], samples: int, latents: int, count: int) -> list[list[Peak]]:
    """The highest ``count`` samples of each of S latents, of a stream of their codes."""
    best = torch.zeros(samples, latents)
    position, sigma = torch.zeros(samples, latents, dtype=torch.long), torch.zeros(samples, latents)
    for part in stream:
        z = part.z.float().cpu()
        before = best.clone()
        best.scatter_reduce_(0, part.sample[:, None].expand_as(z), z, "amax")
        row, column = ((z == best[part.sample]) & (z > before[part.sample])).nonzero(as_tuple=True)
        _put(position, part.sample[row], column, part.position[row].long())
        _put(sigma, part.sample[row], column, part.sigma[row].float())
    found: list[list[Peak]] = []
    for column in range(latents):
        order = best[:, column].argsort(descending=True, stable=True)[:count]
        found.append(
            [
                Peak(int(s), float(best[s, column]), int(position[s, column]), float(sigma[s, column]))
                for s in order
                if best[s, column] > 0
            ]
        )
    return found


def _put(into: Tensor, row: Tensor, column: Tensor, values: Tensor) -> None:
    # Of equal peaks of one sample the first counts: it is written last.
    into[row.flip(0), column.flip(0)] = values.flip(0)
