"""Fetches one weight: resumes, can be stopped, and gives the file its name only when its content is proven.

What has arrived lies beside the target as a hidden `.part` file, whose name holds the tag of the content it belongs
to; a later attempt goes on where the last one stopped.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from ..steering.errors import BundleError, DownloadCancelled, DownloadError
from ..steering.formats.container import read_container
from ..steering.formats.fields import SHA256, shown
from .manifest import PACK, REPOSITORY, HubFile, Shipped, Source, Weight, safe_repository_path
from .transport import Digest, Interrupted, Origin, Refused, arriving, locate, public_url

Progress = Callable[[int, "int | None"], object]
"""Called with the bytes that are there and the bytes in all (None if nobody says)."""

PATIENCE = 4
"""Attempts in a row that bring no byte."""


@dataclass(frozen=True)
class _Wish:
    """One download, with everything that the messages need."""

    source: Source
    target: Path
    sha256: str | None
    size: int | None

    @property
    def where(self) -> str:
        if isinstance(self.source, HubFile):
            return f"{self.source.repo_id}/{self.source.filename}"
        return self.source.url if not isinstance(self.source, Shipped) else self.source.path

    @property
    def by_hand(self) -> str:
        """How a person gets the file without us."""
        if isinstance(self.source, Shipped):
            return "Restore the file from the pack's repository."
        line = f"Fetch {public_url(self.source)}"
        if isinstance(self.source, HubFile):
            revision = "" if self.source.revision == "main" else f" --revision {self.source.revision}"
            line += f", or run `hf download {self.source.repo_id} {self.source.filename}{revision}`"
        return f"{line} on a machine with a connection, and put the file at {self.target}."


def download(
    what: Weight | HubFile,
    folder: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Brings a .safetensors file into a folder and returns its path.

    A file that is there already is kept if its content is right and is an error if it is not; it is never replaced.

    Args:
        what: an entry of the manifest, or a file of a Hugging Face repository (its last name is kept).
        folder: made if it is missing.
        sha256: what the content must be; an entry of the manifest brings its own. Without one, the hub's own tag
            of the file counts.
        progress: see `Progress`.
        cancelled: asked between pieces; True stops, and keeps what has arrived.

    Raises:
        DownloadCancelled: the user stopped it.
        DownloadError: no connection, not found, not allowed, or the wrong content.
    """
    wish = _wish(what, Path(folder), sha256)
    promised = None if wish.sha256 is None else Digest("sha256", wish.sha256)
    if promised is not None and wish.target.exists():
        return _kept(wish, promised)
    origin = _origin(wish, promised)
    if wish.target.exists():
        return _kept(wish, origin.digest)
    try:
        wish.target.parent.mkdir(parents=True, exist_ok=True)
        mark = hashlib.sha256((origin.digest.value if origin.digest else origin.tag).encode()).hexdigest()[
            :16
        ]
        partial = wish.target.with_name(f".{wish.target.name}.{mark}.part")
        if isinstance(wish.source, Shipped):
            shutil.copyfile(PACK / wish.source.path, partial)
        else:
            _fetch(wish, origin, partial, progress or _silent, cancelled or _never)
        _prove(wish, origin, partial)
        os.replace(partial, wish.target)
    except OSError as reason:
        raise DownloadError(
            str(wish.target),
            expected="to write the file",
            found=reason.strerror or str(reason),
            remedy="Check the folder's permissions and the free space, then try again.",
        ) from reason
    for older in wish.target.parent.glob(f".{wish.target.name}.*.part"):
        older.unlink(missing_ok=True)
    return wish.target


def target_of(what: Weight | HubFile, folder: str | os.PathLike[str]) -> Path:
    """Where `download` puts it."""
    return _wish(what, Path(folder), None).target


def _silent(there: int, total: int | None) -> None:
    """Nobody watches."""


def _never() -> bool:
    return False


def _wish(what: Weight | HubFile, folder: Path, sha256: str | None) -> _Wish:
    if sha256 is not None:
        sha256 = sha256.strip().lower()
        if not SHA256.fullmatch(sha256):
            raise DownloadError(
                "sha256",
                expected="64 hexadecimal digits",
                found=shown(sha256),
                remedy="Copy it from the file's page, or leave it empty.",
            )
    if isinstance(what, Weight):
        if sha256 not in (None, what.sha256):
            raise DownloadError(
                f"sha256 of {what.name}",
                expected=f"{what.sha256}, as the manifest says",
                found=str(sha256),
                remedy="Leave it out: an entry of the manifest has its own.",
            )
        return _Wish(what.source, folder / what.file, what.sha256, what.bytes)
    if not REPOSITORY.fullmatch(what.repo_id):
        _not_a_name("repository", "owner/name", what.repo_id)
    if not safe_repository_path(what.filename):
        _not_a_name("file", "the path of a .safetensors file inside the repository", what.filename)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", what.revision):
        _not_a_name("revision", "a commit, tag or branch", what.revision)
    return _Wish(what, folder / PurePosixPath(what.filename).name, sha256, None)


def _not_a_name(where: str, expected: str, found: str) -> NoReturn:
    raise DownloadError(
        where, expected=expected, found=shown(found), remedy="Copy both names from the repository's page."
    )


def _kept(wish: _Wish, digest: Digest | None) -> Path:
    """The file that is there already, if it is the right one."""
    if not wish.target.is_file():
        raise DownloadError(
            str(wish.target),
            expected="no file of that name, or the one that was promised",
            found="a folder or something else that is not a file",
            remedy="Move or rename it and try again.",
        )
    found = None if digest is None else digest.of(wish.target)
    if found is not None and found == digest:
        return wish.target
    raise DownloadError(
        str(wish.target),
        expected=f"no file of that name, or the one of {digest or wish.where}",
        found=f"a file with {found}" if found else "a file that cannot be compared, as no sha256 is known",
        remedy="It was left as it is. Move or rename it and try again, or choose it if it is what you want.",
    )


def _origin(wish: _Wish, promised: Digest | None) -> Origin:
    if not isinstance(wish.source, HubFile):
        url = "" if isinstance(wish.source, Shipped) else wish.source.url
        return Origin(url, wish.size, "", promised)
    try:
        origin = locate(wish.source)
    except (Interrupted, Refused) as reason:
        raise _no_answer(wish, reason) from reason
    if promised is None:
        return origin
    if origin.digest is not None and origin.digest.kind == promised.kind and origin.digest != promised:
        raise DownloadError(
            wish.where,
            expected=f"a file with {promised}",
            found=f"one with {origin.digest} in the repository; nothing was fetched",
            remedy="The file was replaced there, or the sha256 is of another one: compare with its page.",
        )
    return Origin(origin.url, origin.size, origin.tag, promised)


def _fetch(wish: _Wish, origin: Origin, partial: Path, tell: Progress, stop: Callable[[], bool]) -> None:
    """Fills the partial file, going on after broken connections as long as each attempt brings something."""
    size, fruitless = origin.size, 0
    while True:
        there = partial.stat().st_size if partial.exists() else 0
        if there and (size is None or there > size):
            partial.unlink()  # cannot be the beginning of this file, or nobody knows
            there = 0
        if size is not None and there == size:
            return
        tell(there, size)
        before = there
        try:
            with arriving(origin.url, there) as body:
                size = size or body.size
                if body.begin not in (0, there):
                    raise Refused(f"bytes from {body.begin} on, where {there} was asked for")
                there = body.begin
                with partial.open("r+b" if there else "wb") as file:
                    file.seek(there)
                    file.truncate()
                    for piece in body.pieces:
                        file.write(piece)
                        there += len(piece)
                        tell(there, size)
                        if stop():
                            raise _stopped(wish, there)
            if size is None or there >= size:
                return
            reason: Exception = Interrupted(f"the connection ended after {there} of {size} bytes")
        except Interrupted as broken:
            reason = broken
        except Refused as answer:
            raise _no_answer(wish, answer) from answer
        fruitless = 0 if there > before else fruitless + 1
        if fruitless >= PATIENCE:
            raise _no_answer(wish, reason, kept=there) from reason
        if stop():
            raise _stopped(wish, there)
        time.sleep(0.5 * fruitless)


def _prove(wish: _Wish, origin: Origin, partial: Path) -> None:
    """Refuses and removes a file that is not what was promised."""
    there = partial.stat().st_size
    found = None if origin.digest is None else origin.digest.of(partial)
    if origin.size is not None and there != origin.size:
        expected, actual = f"{origin.size} bytes", f"{there} bytes"
    elif found != origin.digest:
        expected, actual = f"a file with {origin.digest}", f"one with {found}"
    else:
        try:
            read_container(partial)
            return
        except BundleError as reason:
            expected, actual = "a safetensors file", reason.found
    partial.unlink()
    raise DownloadError(
        wish.where,
        expected=expected,
        found=f"{actual}; it was thrown away",
        remedy=f"Try once more; if it happens again, the file or the promise is wrong. {wish.by_hand}",
    )


def _no_answer(wish: _Wish, reason: Exception, kept: int = 0) -> DownloadError:
    if isinstance(reason, Interrupted):
        remedy = "Check the connection, the proxy and HF_ENDPOINT, then try again"
        remedy += f"; the {kept} bytes that arrived are kept. " if kept else ". "
    elif "OfflineMode" in str(reason):
        remedy = "HF_HUB_OFFLINE is set: unset it to fetch files. "
    else:
        remedy = (
            "Check the names. If the repository is private or asks for consent, accept its terms on its page and log in"
            " with `hf auth login`. "
        )
    return DownloadError(
        wish.where, expected="the file from its server", found=str(reason), remedy=remedy + wish.by_hand
    )


def _stopped(wish: _Wish, there: int) -> DownloadCancelled:
    return DownloadCancelled(
        wish.where,
        expected="to go on until the file is whole",
        found=f"the wish to stop after {there} bytes",
        remedy="Start it again to go on from there.",
    )
