"""Makes one recording of the parts that several machines have recorded, equal to what one would have."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...steering.errors import SteeringError
from . import manifest as manifests
from .manifest import DAMAGED, Manifest, ShardEntry
from .writer import PLAN, file_digest, finish, flush_folder, known_shards, require_same, settling


def merge(parts: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]) -> Manifest:
    """Brings the shards of all parts into one folder and writes its manifest.

    The shards are linked, or copied where the file system cannot link; the parts stay as they are. Every byte is
    read and held against its hash.

    Args:
        parts: folders of the same recording, each with some of its shards; ``folder`` may be one of them, and is one
            where it holds a recording.

    Raises:
        SteeringError: the parts are of different recordings, a shard is missing or damaged, or the disk is full.
    """
    if not parts:
        raise SteeringError(
            "parts", expected="at least one folder", found="none", remedy="Name the folders to merge."
        )
    target = Path(folder)
    sources = [Path(part) for part in parts]
    if _is_begun(target) and not any(source.exists() and source.samefile(target) for source in sources):
        sources.append(target)
    plans = [_plan(source) for source in sources]
    for source, (plan, _) in zip(sources[1:], plans[1:]):
        require_same(plan, plans[0][0], source)
    manifest = plans[0][0]
    found: dict[int, tuple[Path, ShardEntry]] = {}
    for source, (_, shards) in zip(sources, plans):
        for number, entry in shards.items():
            _require_one_story(found.get(number), source, entry)
            found.setdefault(number, (source, entry))
    missing = [number for number in range(len(manifest.ranges())) if number not in found]
    if missing:
        raise SteeringError(
            ", ".join(map(str, sources)),
            expected=f"{len(manifest.ranges())} shards in all",
            found=f"{len(found)}; the first that is missing is number {missing[0]}",
            remedy="Let every process finish, or run the one that did not again; then merge.",
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        for source, entry in found.values():
            _bring(source / entry.file, target / entry.file, entry.sha256)
        flush_folder(target)
        with settling(target):
            whole = finish(target, manifest, {number: entry for number, (_, entry) in found.items()})
    except OSError as reason:
        raise SteeringError(
            str(target),
            expected="to write the recording",
            found=reason.strerror or str(reason),
            remedy="Free some space or check the folder's permissions, then merge again.",
        ) from reason
    assert whole is not None
    return whole


def _plan(folder: Path) -> tuple[Manifest, dict[int, ShardEntry]]:
    for name in (manifests.FILE, PLAN):
        path = folder / name
        if path.exists():
            manifest = Manifest.parse(path.read_bytes(), str(path))
            if manifest.shards:
                return manifest.without_shards(), dict(enumerate(manifest.shards))
            return manifest, known_shards(folder, manifest)
    raise SteeringError(
        str(folder),
        expected=f"a recording with {manifests.FILE} or {PLAN}",
        found="neither",
        remedy="Name the folders that `record --shard` wrote.",
    )


def _is_begun(target: Path) -> bool:
    """Whether the folder has a recording of its own, which is then one more part.

    Raises:
        SteeringError: it has something else.
    """
    if not target.is_dir():
        return False
    names = [path.name for path in target.iterdir() if path.name[0] != "."]
    if manifests.FILE in names or PLAN in names:
        return True
    stray = [name for name in names if not re.fullmatch(r"shard-\d+\.safetensors", name)]
    if stray:
        raise SteeringError(
            str(target),
            expected="an empty folder, one of the parts, or one with this recording",
            found=stray[0],
            remedy="Choose another folder.",
        )
    return False


def _require_one_story(known: tuple[Path, ShardEntry] | None, source: Path, entry: ShardEntry) -> None:
    if known is not None and known[1] != entry:
        raise SteeringError(
            str(source / entry.file),
            expected=f"the very shard of {known[0]}",
            found="another",
            remedy="The machines have computed different numbers; merge parts that do not overlap.",
        )


def _bring(source: Path, target: Path, sha256: str) -> None:
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        if not (target.exists() and source.samefile(target)):
            try:
                os.link(source, partial)
            except OSError:
                shutil.copyfile(source, partial)
                with partial.open("rb+") as stream:
                    os.fsync(stream.fileno())
        found = file_digest(partial if partial.exists() else target)
        if found != sha256:
            raise SteeringError(
                str(source), expected=f"the hash {sha256[:12]}…", found=f"{found[:12]}…", remedy=DAMAGED
            )
        if partial.exists():
            os.replace(partial, target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
