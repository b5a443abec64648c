"""Writes a recording shard by shard, so that whatever stops it costs the shard in hand and nothing else.

While it grows, a folder holds `plan.json` (the manifest without shards), whole shards, and one `part-I-of-N.json` for
each process, which lists the shards that it has finished. A shard gets its name when it is on the disk, and is listed
after that; what is not listed is made again. The process that finds all shards listed writes `manifest.json`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.formats.container import Buffer, sha256_of, write_container
from ...steering.formats.fields import Field, parse_json
from ...steering.sites import Site
from ..alone import alone
from . import manifest as manifests
from .manifest import DAMAGED, DTYPES, Manifest, ShardEntry, difference, read_shard, shard_file, shard_value

PLAN = "plan.json"
PARTS = "part-*-of-*.json"
LEFT_OVER = ".*.partial"
LOCKS = ".part-*.lock"
"""What a process that was killed may leave behind."""
SETTLING = ".recording.lock"
"""Held while a plan or manifest comes or goes, so that no process sees one gone and the other not yet there."""
PATIENCE = 120.0
"""Seconds that others may take for it: the slowest reads a few small files."""
KINDS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int32: "I32"}
LABELLING = 12
"""Bytes beside the token of each row: sample, sigma, position."""
SPARE = 64 * 2**20
"""Bytes that are left free on the disk."""


class SiteRows(NamedTuple):
    """What one shard holds of one site."""

    tokens: Tensor
    """(n, d) in the recording's dtype"""
    sample: Tensor
    """(n,) int32, numbers in the manifest's samples"""
    sigma: Tensor
    """(n,) float32"""
    position: Tensor
    """(n,) int32, the token's place in its stream"""


class RecordingWriter:
    """The shards that one process writes.

    Args:
        folder: of the recording; made if it is not there. What is there already must be of this very recording.
        manifest: all but the shards.
        rows: of each shard by its number, how many there will be at each site.
        shard: (i, n): this process writes the shards whose number leaves i when divided by n.

    Raises:
        SteeringError: a setting cannot be, or the folder holds another recording.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        manifest: Manifest,
        rows: Sequence[Mapping[Site, int]],
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        index, count = shard
        if not 0 <= index < count:
            raise SteeringError(
                "shard",
                expected="i/n with 0 <= i < n",
                found=f"{index}/{count}",
                remedy="Number the processes from 0, for example --shard 0/4 to --shard 3/4.",
            )
        self.folder = Path(folder)
        self.manifest = manifests.checked(manifest.without_shards())
        self.rows = rows
        self.part = self.folder / f"part-{index:05d}-of-{count:05d}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.finished = self._opened()
            self.own = {
                number: entry
                for number, entry in read_part(self.part, self.manifest).items()
                if number in self.finished
            }
        except OSError as reason:
            raise self.failed(reason) from reason
        self.missing = [number for number in range(index, len(rows), count) if number not in self.finished]
        """Numbers of the shards that this process has still to write."""

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Around all writing: no other process writes the same part meanwhile.

        A whole recording that has lost shards is an unfinished one from here on. What others have finished since this
        writer was made is no longer missing.

        Raises:
            SteeringError: another process is at it, or the folder cannot be written.
        """
        with alone(self.part.with_name(f".{self.part.name}.lock"), "recording of a part"):
            try:
                self._begin()
            except OSError as reason:
                raise self.failed(reason) from reason
            yield

    def _begin(self) -> None:
        with settling(self.folder):
            self.finished = self._there()
            self.missing = [number for number in self.missing if number not in self.finished]
            for number in self.missing:  # what a process that was killed has left
                for path in self.folder.glob(f".{shard_file(number)}.*.partial"):
                    path.unlink(missing_ok=True)
            whole = self.folder / manifests.FILE
            if self.missing and whole.exists():
                self.own = dict(self.finished)
                write_text(self.part, part_text(self.own))
                write_text(self.folder / PLAN, self.manifest.text())
                whole.unlink()

    def _opened(self) -> dict[int, ShardEntry]:
        """The shards that are there, of whichever process; the plan is written if it is the first to come."""
        whole = self._whole()
        if whole is None:  # the folder of a whole recording need not be one that can be written
            with settling(self.folder):
                return self._there()
        return there_are(self.folder, dict(enumerate(whole.shards)))

    def _there(self) -> dict[int, ShardEntry]:
        """The same, while `settling`."""
        whole = self._whole()
        return self._planned() if whole is None else there_are(self.folder, dict(enumerate(whole.shards)))

    def _whole(self) -> Manifest | None:
        """The manifest of a whole recording, of which every shard has been listed."""
        path = self.folder / manifests.FILE
        try:
            there = Manifest.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        require_same(there, self.manifest, path)
        return there

    def _planned(self) -> dict[int, ShardEntry]:
        """The shards of an unfinished recording, which begins here if none has."""
        plan = self.folder / PLAN
        if plan.exists():
            require_same(Manifest.parse(plan.read_bytes(), str(plan)), self.manifest, plan)
            return known_shards(self.folder, self.manifest)
        # Where a file system has no locks, another process may begin at this very moment.
        ours = {manifests.FILE, PLAN}
        stray = [path for path in self.folder.iterdir() if path.name[0] != "." and path.name not in ours]
        if stray:
            raise SteeringError(
                str(self.folder),
                expected="an empty folder, or one with this recording",
                found=f"{stray[0].name}",
                remedy="Choose another folder.",
            )
        write_text(plan, self.manifest.text())
        return {}

    def bytes_of(self, number: int) -> int:
        """The size of a shard on the disk, but for its table of some hundred bytes."""
        return shard_bytes(self.rows[number], self.manifest)

    def require_space(self) -> None:
        """Refuses to begin what the disk cannot hold.

        Raises:
            SteeringError: says how much there is and how much it takes.
        """
        needed = sum(map(self.bytes_of, self.missing))
        free = shutil.disk_usage(self.folder).free
        if self.missing and needed + SPARE > free:
            raise SteeringError(
                str(self.folder),
                expected=f"{size(needed)} of free disk for {len(self.missing)} shards",
                found=f"{size(free)}",
                remedy="Free some space, choose another folder, or record less: fewer tokens an image, fewer "
                "sites, a cap.",
            )

    def write(self, number: int, sites: Mapping[Site, SiteRows]) -> None:
        """Writes one shard and lists it.

        Raises:
            SteeringError: the disk is full, or the values are not what was planned.
        """
        tensors: dict[str, Tensor] = {}
        for site, planned in self.rows[number].items():
            rows = sites[site]
            shape = planned, self.manifest.sites[site]
            if tuple(rows.tokens.shape) != shape or KINDS[rows.tokens.dtype] != KINDS[self.dtype]:
                raise SteeringError(
                    f"{shard_file(number)}: {site}",
                    expected=f"tokens of shape {shape} in {self.dtype}",
                    found=f"{tuple(rows.tokens.shape)} in {rows.tokens.dtype}",
                    remedy="This is a fault in the recorder; please report it.",
                )
            tensors |= {f"{site}.{part}": tensor for part, tensor in rows._asdict().items()}
        first, stop = self.manifest.ranges()[number]
        path = self.folder / shard_file(number)
        partial = self.folder / f".{path.name}.{secrets.token_hex(4)}.partial"
        try:
            write_container(
                partial,
                {"format": manifests.FORMAT, "samples": f"{first}-{stop}"},
                {name: (KINDS[t.dtype], tuple(t.shape), content(t)) for name, t in tensors.items()},
            )
            digest = file_digest(partial)
            os.replace(partial, path)
            flush_folder(self.folder)
            entry = ShardEntry(path.name, digest, first, stop, dict(self.rows[number]))
            self.own[number] = self.finished[number] = entry
            write_text(self.part, part_text(self.own))
        except OSError as reason:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise self.failed(reason) from reason
        self.missing.remove(number)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.manifest.settings.dtype)

    def finish(self) -> Manifest | None:
        """Writes the manifest if all shards are there, of whichever process.

        Returns:
            the manifest, or None while other processes have shards to write.
        """
        try:
            if (whole := self._whole()) is not None and not any(left_over(self.folder)):
                return whole
            with settling(self.folder):
                # Another was the last, or one that was killed right after it.
                if (whole := self._whole()) is not None:
                    tidy(self.folder)
                    return whole
                self.finished |= known_shards(self.folder, self.manifest)
                return finish(self.folder, self.manifest, self.finished)
        except OSError as reason:
            raise self.failed(reason) from reason

    def failed(self, reason: OSError) -> SteeringError:
        """What to say when the folder cannot be written."""
        return SteeringError(
            str(self.folder),
            expected="to write the recording",
            found=reason.strerror or str(reason),
            remedy="Free some space or check the folder's permissions, then record again: the finished shards are "
            "kept, and the rest is made.",
        )


def finish(folder: Path, manifest: Manifest, shards: Mapping[int, ShardEntry]) -> Manifest | None:
    """Writes the manifest of a folder in which all shards are listed, and removes what led to it. While `settling`."""
    count = len(manifest.ranges())
    if len(shards) < count:
        return None
    whole = dataclasses.replace(manifest, shards=tuple(shards[number] for number in range(count)))
    write_text(folder / manifests.FILE, whole.text())
    tidy(folder)
    return whole


def settling(folder: Path) -> AbstractContextManager[None]:
    """Around all that makes a plan or a manifest come or go."""
    return alone(folder / SETTLING, "recording", PATIENCE)


def left_over(folder: Path) -> Iterator[Path]:
    """What led to a recording and is still there."""
    for pattern in (PLAN, PARTS, LEFT_OVER, LOCKS, SETTLING):
        yield from folder.glob(pattern)


def tidy(folder: Path) -> None:
    """Removes from the folder of a whole recording what led to it."""
    for path in (folder / PLAN, *folder.glob(PARTS), *folder.glob(LEFT_OVER)):
        path.unlink(missing_ok=True)
    for path in folder.glob(LOCKS):
        with suppress(OSError):  # Windows removes none that is held
            path.unlink()


def known_shards(folder: Path, manifest: Manifest) -> dict[int, ShardEntry]:
    """The shards that the parts in a folder list and that are there, by their numbers."""
    known: dict[int, ShardEntry] = {}
    for part in sorted(folder.glob(PARTS)):
        known |= read_part(part, manifest)
    return there_are(folder, known)


def there_are(folder: Path, shards: Mapping[int, ShardEntry]) -> dict[int, ShardEntry]:
    """Those of the shards whose files are there."""
    return {number: entry for number, entry in shards.items() if (folder / entry.file).exists()}


def read_part(path: Path, manifest: Manifest) -> dict[int, ShardEntry]:
    """The shards that one process has listed; none where it has not begun, or where all are done."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    root = Field(
        str(path),
        "",
        parse_json(text, str(path), error=SteeringError, remedy=DAMAGED),
        SteeringError,
        DAMAGED,
    )
    entries = [read_shard(entry, manifest) for entry in root.record("shards")["shards"].items()]
    return {entry.first // manifest.settings.samples_per_shard: entry for entry in entries}


def part_text(shards: Mapping[int, ShardEntry]) -> str:
    return json.dumps({"shards": [shard_value(shards[number]) for number in sorted(shards)]}, indent=1) + "\n"


def require_same(found: Manifest, wanted: Manifest, path: Path) -> None:
    """Refuses to add to a recording of another model, of other sites, prompts or settings."""
    different = difference(found, wanted)
    if different is not None:
        name, there, here = different
        raise SteeringError(
            f"{path}: {name}",
            expected=here,
            found=there,
            remedy="The folder holds another recording: choose another folder, or the model and settings of this one.",
        )


def shard_bytes(rows: Mapping[Site, int], manifest: Manifest) -> int:
    """The bytes of a shard with so many rows at each site."""
    item = DTYPES[manifest.settings.dtype]
    return sum(n * (manifest.sites[site] * item + LABELLING) for site, n in rows.items())


def content(tensor: Tensor) -> Buffer:
    """A tensor's bytes, without a copy where it lies in one piece."""
    if tensor.numel() == 0:
        return b""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return sha256_of(iter(lambda: stream.read(8 * 2**20), b""))


def write_text(path: Path, text: str) -> None:
    """Puts a text in the place of a file at once: at any moment there is the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Makes names in a folder outlive a power cut, where the system lets a folder be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def size(count: int) -> str:
    """Bytes for people."""
    step = 0 if count < 1 else min(int(math.log(count, 1024)), 4)
    return f"{count / 1024**step:.{1 if step else 0}f} {('bytes', 'KB', 'MB', 'GB', 'TB')[step]}"
