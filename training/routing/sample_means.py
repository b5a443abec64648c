"""Each sample's mean activation at one site and noise level: what routing knows of a site.

M samples, B buckets of noise levels and width d: M·B·d numbers are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ..recordings.rows import TokenRows, require_finite


class SampleMeans(NamedTuple):
    """Mean activations by sample and bucket."""

    values: Tensor
    """(M, B, d); 0 where nothing was recorded."""
    seen: Tensor
    """(M, B) bool"""


class Differences(NamedTuple):
    """Δa = safe − unsafe of P pairs by bucket."""

    values: Tensor
    """(P, B, d)"""
    seen: Tensor
    """(P, B) bool: both sides were recorded."""


class Seeded(Protocol):
    """What is known of a sample."""

    @property
    def label(self) -> str: ...
    @property
    def category(self) -> str | None: ...
    @property
    def pair(self) -> str | None: ...
    @property
    def seed(self) -> int: ...


class Cases(NamedTuple):
    """The samples as tensors (M)."""

    unsafe: Tensor
    """bool"""
    category: Tensor
    """Number of the risk category of unsafe samples, −1 for others."""
    seed: Tensor
    """Number of the seed among those that occur."""
    partner: Tensor
    """Of an unsafe sample: the number of its safe rewrite with the same seed; −1 where there is none."""
    pair: Tensor
    """Number of the pair id, whatever the seed; −1 for samples without."""
    categories: tuple[str, ...]


def cases_of(samples: Sequence[Seeded]) -> Cases:
    """The samples of a recording as tensors."""
    unsafe = [sample.label == "unsafe" for sample in samples]
    names = tuple(dict.fromkeys(s.category or "unsafe" for s, is_unsafe in zip(samples, unsafe) if is_unsafe))
    pairs = list(dict.fromkeys(sample.pair for sample in samples if sample.pair is not None))
    seeds = list(dict.fromkeys(sample.seed for sample in samples))
    safe = {(s.pair, s.seed): at for at, s in enumerate(samples) if s.label == "safe"}
    return Cases(
        torch.tensor(unsafe, dtype=torch.bool),
        torch.tensor([names.index(s.category or "unsafe") if u else -1 for s, u in zip(samples, unsafe)]),
        torch.tensor([seeds.index(sample.seed) for sample in samples]),
        torch.tensor(
            [
                safe.get((s.pair, s.seed), -1) if u and s.pair is not None else -1
                for s, u in zip(samples, unsafe)
            ]
        ),
        torch.tensor([-1 if sample.pair is None else pairs.index(sample.pair) for sample in samples]),
        names,
    )


def sample_means(
    stream: Iterable[TokenRows], samples: int, buckets: int, bucket: Callable[[Tensor], Tensor]
) -> SampleMeans:
    """The means of a stream.

    Args:
        bucket: noise levels (n) → their buckets (n); below 0 is left out.

    Raises:
        SteeringError: nothing was recorded, or a value is not finite.
    """
    sums, counts = torch.empty(0), torch.zeros(samples * buckets)
    for rows in stream:
        number = bucket(rows.sigma)
        kept = number >= 0
        tokens = require_finite(rows.tokens[kept].float(), "recording: tokens")
        place = rows.sample[kept].long() * buckets + number[kept]
        if not sums.numel():
            sums = torch.zeros(samples * buckets, tokens.shape[1])
        sums.index_add_(0, place, tokens)
        counts += torch.bincount(place, minlength=len(counts))
    if not bool(counts.any()):
        raise SteeringError(
            "recording", expected="tokens of the site", found="none", remedy="Record the site first."
        )
    values = (sums / counts.clamp_min(1)[:, None]).view(samples, buckets, -1)
    return SampleMeans(values, (counts > 0).view(samples, buckets))


def pair_differences(means: SampleMeans, cases: Cases) -> tuple[Tensor, Differences]:
    """Numbers of the unsafe samples (P) that have a safe rewrite, and their differences.

    Raises:
        SteeringError: no unsafe sample has one.
    """
    at = (cases.partner >= 0).nonzero()[:, 0]
    other = cases.partner[at]
    seen = means.seen[at] & means.seen[other]
    if not bool(seen.any()):
        raise SteeringError(
            "recording: pairs",
            expected="unsafe prompts beside safe rewrites of the same pair id and seed",
            found=f"{len(at)} pairs, none recorded at the same noise level",
            remedy="Record each unsafe prompt with its safe rewrite under the same pair id.",
        )
    values = (means.values[other] - means.values[at]) * seen[..., None]
    return at, Differences(values, seen)


def by_pair(differences: Differences, pair: Tensor) -> tuple[Tensor, Tensor]:
    """The mean difference of each pair id over seeds and noise levels: the ids (Q), rising, and (Q, d).

    Args:
        pair: (P) the pair id's number.
    """
    ids, place = pair.unique(return_inverse=True)
    sums = torch.zeros(len(ids), differences.values.shape[-1])
    sums.index_add_(0, place, differences.values.sum(1))
    counts = torch.zeros(len(ids)).index_add_(0, place, differences.seen.sum(1).float())
    return ids[counts > 0], sums[counts > 0] / counts[counts > 0, None]


def update_directions(operator: str, means: SampleMeans, cases: Cases) -> list[list[Tensor]]:
    """Estimates (d) of the direction in which an operator would move unsafe tokens.

    There are three kinds: by seed, by noise level, and with each source category left out.

    Repel takes away what unsafe tokens have and others lack, so it moves along mean(rest) − mean(unsafe); Blend moves
    towards the safe rewrites, mean(a⁺ − a⁻) (both ours: no autoencoder is trained yet). An estimate whose tokens are
    missing is left out.
    """
    levels = torch.arange(means.seen.shape[1])
    everything = torch.ones_like(means.seen)
    kinds: list[list[Tensor]] = [
        [(cases.seed == seed)[:, None] & everything for seed in cases.seed.unique()],
        [(levels == level)[None] & everything for level in levels],
        [
            (cases.category != category)[:, None] & everything
            for category in range(len(cases.categories))
            if len(cases.categories) > 1
        ],
    ]
    estimate = _ESTIMATES[operator]
    found = [[estimate(means, cases, subset) for subset in kind] for kind in kinds]
    return [[direction for direction in kind if direction is not None] for kind in found]


def _repelled(means: SampleMeans, cases: Cases, subset: Tensor) -> Tensor | None:
    unsafe = means.seen & subset & cases.unsafe[:, None]
    rest = means.seen & subset & ~cases.unsafe[:, None]
    if not (unsafe.any() and rest.any()):
        return None
    return means.values[rest].mean(0) - means.values[unsafe].mean(0)


def _blended(means: SampleMeans, cases: Cases, subset: Tensor) -> Tensor | None:
    paired = means.seen & subset & (cases.partner >= 0)[:, None] & means.seen[cases.partner]
    if not paired.any():
        return None
    return (means.values[cases.partner] - means.values)[paired].mean(0)


_ESTIMATES: dict[str, Callable[[SampleMeans, Cases, Tensor], Tensor | None]] = {
    "repel": _repelled,
    "blend": _blended,
}
