"""Which tokens a recording keeps, decided before anything is sampled (ours).

A reservoir that is filled while the activations come needs all that came before, so two halves of a recording, or one
that was broken off, could not agree. Here the choice follows from the samples, the settings and a seed: at most `cap`
rows of each (site, bucket, label), spread evenly over its pictures and noise levels, and of each picture at a noise
level the first of its tokens in an order drawn from a hash. That is a stratified sample without replacement, known on
every machine, and so is the size of each shard.

Both sides of a pair draw with the same hash and take first the places that both have, so they keep the same places.
All sites of a stream keep the same tokens of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...steering.sites import Site
from .manifest import LABELS, Manifest, bucket_of
from .prompts import identity, partners

Places = NDArray[np.int64]


class TokenPlan:
    """The choice for one recording.

    Args:
        manifest: its samples, sites, settings and noise levels.
        text: of each sample, the places of its conditioning that are not padding, rising.
        image: how many tokens the generated picture has.
        text_start: the place of the conditioning at which the site `text` begins.
    """

    def __init__(
        self, manifest: Manifest, text: Sequence[Sequence[int]], image: int, text_start: int = 0
    ) -> None:
        settings = manifest.settings
        self.manifest = manifest
        self._text = [np.asarray(places, dtype=np.int64) for places in text]
        self._image = image
        self._start = text_start
        self._partners = partners(manifest.samples)
        self._hashes = _mixed(
            _mixed(np.array([_number(identity(s, settings.seed)) for s in manifest.samples], np.uint64))[
                :, None
            ]
            + np.arange(len(manifest.sigmas), dtype=np.uint64)
        )  # (samples, noise levels)
        buckets = np.array([bucket_of(sigma, settings.buckets) for sigma in manifest.sigmas])
        labels = np.array([LABELS.index(s.label) for s in manifest.samples])
        self._counts = {site: self._counted(site, buckets, labels) for site in manifest.sites}
        self._chosen = lru_cache(maxsize=512)(self._choose)

    def counts(self, site: Site) -> NDArray[np.int64]:
        """(samples, noise levels): how many tokens are kept."""
        return self._counts[site]

    def rows(self, number: int) -> dict[Site, int]:
        """How many rows a shard has at each site."""
        first, stop = self.manifest.ranges()[number]
        return {site: int(counts[first:stop].sum()) for site, counts in self._counts.items()}

    def all_rows(self) -> list[Mapping[Site, int]]:
        """`rows` of each shard."""
        return [self.rows(number) for number in range(len(self.manifest.ranges()))]

    def places(self, site: Site, sample: int, step: int) -> Places:
        """Which tokens of the site's stream are kept at a noise level, rising."""
        return self._chosen(stream_of(site), sample, step, int(self._counts[site][sample, step]))

    def text_length(self, sample: int) -> int:
        """How long a sample's conditioning is at least."""
        return int(self._text[sample][-1]) + 1

    def _available(self, stream: str, sample: int) -> Places:
        if stream == "image":
            return np.arange(self._image, dtype=np.int64)
        places = self._text[sample]
        return places if stream == "text" else places[places >= self._start] - self._start

    def _choose(self, stream: str, sample: int, step: int, count: int) -> Places:
        available = self._available(stream, sample)
        if count == len(available):
            return available
        if count == 0:
            return available[:0]
        order = _mixed(self._hashes[sample, step] + available.astype(np.uint64))
        other = self._partners[sample]
        if other is None or stream == "image":
            return np.sort(available[np.argsort(order, kind="stable")[:count]])
        alone = ~np.isin(available, self._available(stream, other))
        return np.sort(available[np.lexsort((order, alone))[:count]])

    def _counted(self, site: Site, buckets: Places, labels: Places) -> NDArray[np.int64]:
        settings = self.manifest.settings
        stream = stream_of(site)
        if stream == "image":
            sizes = np.full(len(labels), self._image, np.int64)
        else:
            sizes = np.array([len(self._available(stream, i)) for i in range(len(labels))], np.int64)
        if settings.tokens_per_image is not None:
            sizes = np.minimum(sizes, settings.tokens_per_image)
        counts = np.zeros((len(labels), len(buckets)), np.int64)
        for bucket in range(len(settings.buckets) - 1):
            steps = np.flatnonzero(buckets == bucket)
            if stream == "conditioning":
                steps = steps[:1]  # it enters the model alike at every step
            for label in range(len(LABELS)):
                rows = np.flatnonzero(labels == label)
                if len(rows) and len(steps):
                    at = np.ix_(rows, steps)
                    counts[at] = _shared(sizes[rows], self._hashes[at], settings.cap)
        return counts


def stream_of(site: Site) -> str:
    """`conditioning` for the site `text`, else the site's stream."""
    return site.stream or "conditioning"


def _shared(sizes: NDArray[np.int64], order: NDArray[np.uint64], cap: int | None) -> NDArray[np.int64]:
    """Shares at most ``cap`` tokens out among pictures (n,) with so many, at each of T noise levels, (n, T).

    All get the same number, or all they have; what is left goes one by one to the first in the order.
    """
    steps = order.shape[1]
    full = np.broadcast_to(sizes[:, None], order.shape)
    if cap is None or int(full.sum()) <= cap:
        return full.copy()
    low, high = 0, int(sizes.max())  # the largest number that fits lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        fits = int(np.minimum(sizes, middle).sum()) * steps <= cap
        low, high = (middle, high) if fits else (low, middle)
    counts = np.minimum(full, low)
    more = np.flatnonzero((full > low).ravel())
    first = more[np.argsort(order.ravel()[more], kind="stable")[: cap - int(counts.sum())]]
    counts.ravel()[first] += 1
    return counts


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014): neighbouring numbers give unrelated ones."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
