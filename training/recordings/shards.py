"""Reads rows out of a recording's files.

A shard's bytes are held against the manifest's hash when it is opened first; one that was cut short or edited is
refused before anything is learnt from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.formats.container import read_container
from ...steering.formats.rows import OpenContainer
from ...steering.sites import Site
from .manifest import DAMAGED, ShardEntry
from .rows import Rows
from .writer import file_digest


class RowIndex(NamedTuple):
    """Where a shard's rows at one site come from, in the order of the file."""

    sample: Tensor
    """(n,) int64"""
    sigma: Tensor
    """(n,) float32"""
    position: Tensor
    """(n,) int64"""


class ShardFiles:
    """The shards in the folder of a recording with these sites and their widths."""

    def __init__(self, folder: Path, sites: Mapping[Site, int]) -> None:
        self.folder = folder
        self.sites = sites
        self._verified: dict[str, tuple[int, int]] = {}
        """Size and time of change of each file whose hash was right."""

    def index(self, entry: ShardEntry, site: Site) -> RowIndex:
        """Of all rows of a shard.

        Raises:
            SteeringError: the file is missing or damaged.
        """
        with self._open(entry) as shard:
            sample, sigma, position = (
                shard.whole(f"{site}.{part}") for part in ("sample", "sigma", "position")
            )
        return RowIndex(sample.long(), sigma, position.long())

    def rows(self, entry: ShardEntry, site: Site, rows: Tensor) -> Rows:
        """Some rows of a shard, their numbers (n,) rising.

        Raises:
            SteeringError: the file is missing or damaged.
        """
        with self._open(entry) as shard:
            if len(rows) == entry.rows[site]:
                tokens = shard.whole(f"{site}.tokens")
            else:
                tokens = shard.rows(f"{site}.tokens", rows.tolist())
        index = self.index(entry, site)
        return Rows(tokens.float(), index.sample[rows], index.sigma[rows], index.position[rows])

    def _open(self, entry: ShardEntry) -> OpenContainer:
        path = self.folder / entry.file
        if not path.exists():
            raise SteeringError(
                str(path),
                expected="the shard",
                found="no such file",
                remedy="Record again with the same settings, which makes this shard alone, or get a whole copy.",
            )
        stamp = path.stat().st_size, path.stat().st_mtime_ns
        if self._verified.get(entry.file) != stamp:
            found = file_digest(path)
            if found != entry.sha256:
                raise SteeringError(
                    str(path),
                    expected=f"the hash {entry.sha256[:12]}… that the manifest gives",
                    found=f"{found[:12]}…, {stamp[0]} bytes: the file was cut short or edited",
                    remedy="Delete it and record again with the same settings, which makes this shard alone, or get a "
                    "sound copy.",
                )
            self._verified[entry.file] = stamp
        shard = read_container(path)
        for site, width in self.sites.items():  # a hash says nothing of a manifest that was edited
            span, shape = shard.tensors.get(f"{site}.tokens"), (entry.rows[site], width)
            if span is None or span.shape != shape:
                raise SteeringError(
                    f"{path}: {site}",
                    expected=f"tokens of shape {shape}, as the manifest says",
                    found="none" if span is None else f"{span.shape}",
                    remedy=DAMAGED,
                )
        return OpenContainer(shard)
