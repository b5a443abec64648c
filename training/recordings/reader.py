"""Reads a recording: some of it into memory, or all of it as a shuffled stream of batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.sites import Site
from . import manifest as manifests
from .manifest import DAMAGED, LABELS, Manifest, ModelFingerprint
from .prompts import partners
from .rows import Pairs, Rows, joined, matched, taken
from .shards import RowIndex, ShardFiles
from .writer import PLAN

BUFFER = 256 * 2**20
"""Bytes of tokens that a stream holds to mix them."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A whole recording on disk."""

    manifest: Manifest
    folder: Path

    @cached_property
    def _files(self) -> ShardFiles:
        return ShardFiles(self.folder, self.sites)

    @property
    def sites(self) -> Mapping[Site, int]:
        """The width of each site."""
        return self.manifest.sites

    def count(self, site: Site) -> int:
        """How many rows there are of a site."""
        self._width(site)
        return sum(entry.rows[site] for entry in self.manifest.shards)

    def bucket(self, sigma: Tensor) -> Tensor:
        """The bucket of each noise level (n,) -> (n,) int64; −1 where none holds it."""
        values, which = torch.unique(sigma, return_inverse=True)
        edges = self.manifest.settings.buckets
        buckets = [manifests.bucket_of(float(value), edges) for value in values]
        return torch.tensor(buckets, dtype=torch.int64)[which]

    def samples(
        self, labels: Collection[str] | None = None, categories: Collection[str] | None = None
    ) -> Tensor:
        """Which samples (N,) bool have one of these labels and one of these risk categories; None means any.

        A benign sample without a category is of every category: it is what all of them are compared with.
        """
        for given, known, what in (
            (labels, LABELS, "labels"),
            (categories, {s.category for s in self.manifest.samples}, "categories"),
        ):
            unknown = sorted(set(given or ()) - set(known))
            if unknown:
                raise SteeringError(
                    f"{self.folder}: {what}",
                    expected=f"some of {', '.join(sorted(name for name in known if name))}",
                    found=repr(unknown[0]),
                    remedy=f"Choose {what} that were recorded.",
                )
        return torch.tensor(
            [
                (labels is None or s.label in labels)
                and (
                    categories is None
                    or s.category in categories
                    or (s.category is None and s.label == "benign")
                )
                for s in self.manifest.samples
            ]
        )

    def read(
        self,
        site: Site,
        *,
        labels: Collection[str] | None = None,
        categories: Collection[str] | None = None,
        buckets: Collection[int] | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> Rows:
        """Rows in memory, in the order of samples, falling sigma and positions.

        Args:
            limit: at most so many, drawn by ``seed`` from all that fit.

        Raises:
            SteeringError: the site, a label or a category was not recorded, or a shard is damaged.
        """
        wanted = self._wanted(site, self.samples(labels, categories), buckets)
        chosen = [wanted(self._files.index(entry, site)) for entry in self.manifest.shards]
        total = sum(map(len, chosen))
        if limit is not None and limit < total:
            kept = torch.zeros(total, dtype=torch.bool)
            kept[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit]] = True
            parts = kept.split([len(rows) for rows in chosen])
            chosen = [rows[part] for rows, part in zip(chosen, parts)]
        return joined(
            [self._files.rows(entry, site, rows) for entry, rows in zip(self.manifest.shards, chosen)],
            self._width(site),
        )

    def shards(
        self,
        site: Site,
        *,
        labels: Collection[str] | None = None,
        categories: Collection[str] | None = None,
        buckets: Collection[int] | None = None,
    ) -> Iterator[Rows]:
        """All rows once, a shard at a time, in the order of `read`.

        Raises:
            SteeringError: as `read`.
        """
        wanted = self._wanted(site, self.samples(labels, categories), buckets)
        for entry in self.manifest.shards:
            yield self._files.rows(entry, site, wanted(self._files.index(entry, site)))

    def stream(
        self,
        site: Site,
        batch: int,
        *,
        seed: int,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        labels: Collection[str] | None = None,
        categories: Collection[str] | None = None,
        buckets: Collection[int] | None = None,
        skip: int = 0,
        buffer: int = BUFFER,
    ) -> Iterator[Rows]:
        """One epoch of batches of ``batch`` rows, mixed over shards and within a buffer.

        The order depends on (seed, epoch) and on ``batch * world`` alone: rank r has the r-th part of each global
        batch, so that all ranks together see what one process with batches of ``batch * world`` rows sees. The
        rows left over at the end are fewer than a global batch and are not given.

        Args:
            skip: begin after so many batches, as if they had been taken.
            buffer: bytes of tokens that are mixed, at least one shard; reading takes as many again.

        Raises:
            SteeringError: there are fewer rows than one global batch, or as `read`.
        """
        wanted = self._wanted(site, self.samples(labels, categories), buckets)
        whole = batch * world
        draw = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(self.manifest.shards), generator=draw).tolist()
        left, given = joined([], self._width(site)), 0
        for window in self._windows(order, site, buffer):
            shards = [self.manifest.shards[number] for number in window]
            chosen = [wanted(self._files.index(entry, site)) for entry in shards]
            total = len(left.tokens) + sum(map(len, chosen))
            mixed = torch.randperm(total, generator=draw)
            count = total // whole
            parts = (self._files.rows(entry, site, rows) for entry, rows in zip(shards, chosen))
            pool = joined([left, *parts], self._width(site))
            for first in range(rank * batch, count * whole, whole):
                given += 1
                if given > skip:
                    yield taken(pool, mixed[first : first + batch])
            left = taken(pool, mixed[count * whole :])
            del pool  # or it would still be there when the next is made
        if not given:
            raise SteeringError(
                f"{self.folder}: {site}",
                expected=f"at least {whole} rows, as one batch over all processes takes",
                found=f"{len(left.tokens)}",
                remedy="Choose a smaller batch, record more, or filter less.",
            )

    def pairs(
        self,
        site: Site,
        *,
        categories: Collection[str] | None = None,
        buckets: Collection[int] | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> Pairs:
        """Tokens of unsafe prompts beside those of their safe rewrites, in the order of the unsafe samples.

        Args:
            limit: at most so many, drawn by ``seed``.

        Raises:
            SteeringError: no unsafe prompt has a safe rewrite, or as `read`.
        """
        partner = torch.tensor([-1 if other is None else other for other in partners(self.manifest.samples)])
        unsafe = self.samples(["unsafe"], categories)
        paired = unsafe & (partner >= 0)
        if not paired.any():
            raise SteeringError(
                f"{self.folder}: {manifests.FILE}: samples",
                expected="unsafe prompts with a safe rewrite of the same pair id",
                found=f"{int(unsafe.sum())} unsafe prompts, none of which has one",
                remedy="Give both the same `pair` in the list of prompts and record again.",
            )
        rewrites = torch.zeros_like(paired).index_fill(0, partner[paired], True)
        keys, places = self._keys(site, paired, torch.arange(len(partner)), buckets)
        others, other_places = self._keys(site, rewrites, partner, buckets)
        a, b = matched(keys, others)
        if limit is not None and limit < len(a):
            kept = torch.randperm(len(a), generator=torch.Generator().manual_seed(seed))[:limit].sort().values
            a, b = a[kept], b[kept]
        left, right = self._gathered(site, places[a]), self._gathered(site, other_places[b])
        return Pairs(left.tokens, right.tokens, left.sample, left.sigma, left.position)

    def _keys(
        self, site: Site, samples: Tensor, named: Tensor, buckets: Collection[int] | None
    ) -> tuple[Tensor, Tensor]:
        """What tells the rows of these samples (N,) bool apart: the number that ``named`` gives the sample, noise level
        and position, (n, 3); and their places, each the number of a shard and of a row in it, (n, 2).
        """
        wanted = self._wanted(site, samples, buckets)
        levels = torch.tensor(self.manifest.sigmas).flip(0)  # rising
        keys: list[Tensor] = []
        places: list[Tensor] = []
        for number, entry in enumerate(self.manifest.shards):
            index = self._files.index(entry, site)
            at = wanted(index)
            level = torch.bucketize(index.sigma[at], levels)
            keys.append(torch.stack([named[index.sample[at]], level, index.position[at]], dim=1))
            places.append(torch.stack([torch.full_like(at, number), at], dim=1))
        return torch.cat(keys), torch.cat(places)

    def _gathered(self, site: Site, places: Tensor) -> Rows:
        """Rows at places (n, 2), each the number of a shard and of a row in it, in that order."""
        order = places[:, 0].argsort(stable=True)
        parts: list[Rows] = []
        for number in places[order, 0].unique_consecutive().tolist():
            rows = places[order][places[order, 0] == number, 1]
            found, back = rows.unique(return_inverse=True)
            parts.append(taken(self._files.rows(self.manifest.shards[number], site, found), back))
        return taken(joined(parts, self._width(site)), order.argsort())

    def _windows(self, order: Sequence[int], site: Site, buffer: int) -> Iterator[list[int]]:
        """The shards in that order, as many together as a buffer holds."""
        window: list[int] = []
        held = 0
        for number in order:
            needed = self.manifest.shards[number].rows[site] * self._width(site) * 4
            if window and held + needed > buffer:
                yield window
                window, held = [], 0
            window.append(number)
            held += needed
        yield window

    def _wanted(
        self, site: Site, samples: Tensor, buckets: Collection[int] | None
    ) -> Callable[[RowIndex], Tensor]:
        """A function from the index of a shard to the numbers of those of these samples (N,) bool."""
        self._width(site)
        bucket = None if buckets is None else torch.tensor(sorted(buckets), dtype=torch.int64)

        def rows(index: RowIndex) -> Tensor:
            mask = samples[index.sample]
            if bucket is not None:
                mask &= torch.isin(self.bucket(index.sigma), bucket)
            return mask.nonzero()[:, 0]

        return rows

    def _width(self, site: Site) -> int:
        if site not in self.manifest.sites:
            raise SteeringError(
                f"{self.folder}: site {site}",
                expected=f"one of {', '.join(map(str, self.manifest.sites))}",
                found="a site that was not recorded",
                remedy="Choose a recorded site, or record this one.",
            )
        return self.manifest.sites[site]


def open_recording(folder: str | os.PathLike[str], *, model: ModelFingerprint | None = None) -> Recording:
    """The recording in a folder. Only its manifest is read; shards are checked when they are first opened.

    Args:
        model: refuse a recording of another model than this.

    Raises:
        SteeringError: there is no whole recording, it is damaged, or it is of another model.
    """
    path = Path(folder) / manifests.FILE
    if not path.exists():
        begun = (Path(folder) / PLAN).exists()
        raise SteeringError(
            str(path),
            expected="the manifest of a recording",
            found="a recording that is not finished" if begun else "no such file",
            remedy="Record again with the same settings to finish it, or merge its parts."
            if begun
            else "Choose the folder of a recording.",
        )
    manifest = Manifest.parse(path.read_bytes(), str(path))
    if not manifest.shards:
        raise SteeringError(f"{path}: shards", expected="shards", found="none", remedy=DAMAGED)
    if model is not None and manifest.model != model:
        raise SteeringError(
            f"{path}: model",
            expected=f"a recording of this {model.family} model ({model.digest[:12]}…)",
            found=f"one of another {manifest.model.family} model ({manifest.model.digest[:12]}…)",
            remedy="Choose a recording of this very model with its patches, or record it.",
        )
    return Recording(manifest, Path(folder))
