"""One file over HTTP, through the session of `huggingface_hub`: where it is, what it should be, and its bytes.

The hub's own `hf_hub_download` reports progress and can be stopped only every 10 MB, and differently from version to
version; its building blocks used here have been the same since 0.26: `hf_hub_url`, `get_hf_file_metadata`,
`build_hf_headers`, `get_session`. They bring HF_ENDPOINT, tokens, proxies and offline mode with them. Nothing of the
hub is imported before a download begins.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..steering.errors import DownloadError
from .manifest import HubFile, WebFile

PIECE = 1 << 16
"""Bytes between two looks at the user's wish to stop."""
TIMEOUT = 20.0
"""Seconds without a byte."""


@dataclass(frozen=True)
class Digest:
    """What a file's content must amount to."""

    kind: str
    """sha256, or git (the sha1 that git gives to small files)."""
    value: str

    @classmethod
    def from_etag(cls, etag: str | None) -> Digest | None:
        """The hub's tag of a file is the sha256 of a large file and the git id of a small one; mirrors may differ."""
        tag = (etag or "").lower()
        for kind, length in (("sha256", 64), ("git", 40)):
            if re.fullmatch(f"[0-9a-f]{{{length}}}", tag):
                return cls(kind, tag)
        return None

    def of(self, path: Path) -> Digest:
        """The digest of the same kind that a file has."""
        digest = hashlib.sha256()
        if self.kind == "git":
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
        return Digest(self.kind, digest.hexdigest())

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True)
class Origin:
    """A file that a server has promised."""

    url: str
    size: int | None
    """Bytes; None if the server does not say."""
    tag: str
    """Changes when the file changes."""
    digest: Digest | None


class Refused(Exception):
    """The server has answered, and trying again will not help."""


class Interrupted(Exception):
    """The connection broke; trying again may help."""


def public_url(source: HubFile | WebFile) -> str:
    """Where a person finds the file."""
    if isinstance(source, WebFile):
        return source.url
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{source.repo_id}/resolve/{source.revision}/{source.filename}"


def locate(source: HubFile) -> Origin:
    """Asks the hub for a file's size and tag.

    Raises:
        Interrupted: no connection. Refused: the hub says no.
    """
    hub = _hub()
    with _network_errors():
        url: str = hub.hf_hub_url(source.repo_id, source.filename, revision=source.revision)
        found = hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    return Origin(url, found.size, found.etag or "", Digest.from_etag(found.etag))


@dataclass(frozen=True)
class Body:
    """An answer that is arriving."""

    begin: int
    """Where within the file it begins; 0 if the server ignores ranges."""
    size: int | None
    """Bytes of the whole file, if the server says."""
    pieces: Iterator[bytes]


@contextmanager
def arriving(url: str, start: int) -> Generator[Body]:
    """A file's bytes from `start` on.

    Raises:
        Interrupted: the connection broke (also out of `pieces`). Refused: the server says no.
    """
    hub = _hub()
    headers: dict[str, str] = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if urlsplit(url).netloc != urlsplit(str(hub.constants.ENDPOINT)).netloc:
        headers.pop("authorization", None)  # a token is for the hub alone
    if start:
        headers["Range"] = f"bytes={start}-"
    with ExitStack() as stack:
        with _network_errors():  # and around nothing else: what the caller raises must pass as it is
            response = stack.enter_context(_opened(hub.utils.get_session(), url, headers))
            hub.utils.hf_raise_for_status(response)
            begin, size = _extent(response)
        yield Body(begin, size, _pieces(response))


def _pieces(response: Any) -> Iterator[bytes]:
    read = (
        response.iter_bytes if hasattr(response, "iter_bytes") else response.iter_content
    )  # httpx, requests
    pieces: Iterator[bytes] = read(PIECE)
    while True:
        with _network_errors():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _hub() -> Any:
    try:
        hub: Any = import_module("huggingface_hub")
        for part in ("constants", "utils"):
            import_module(f"huggingface_hub.{part}")
    except ImportError as reason:
        raise DownloadError(
            "huggingface_hub",
            expected="the package huggingface_hub, which fetches files",
            found=str(reason),
            remedy="Install it with `pip install huggingface_hub`, or fetch the file by hand.",
        ) from reason
    return hub


@contextmanager
def _opened(session: Any, url: str, headers: dict[str, str]) -> Generator[Any]:
    """The hub has used requests (to 0.36) and several generations of httpx since; both offer this much."""
    if callable(getattr(session, "stream", None)):  # a session of requests has a flag of that name
        with session.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            yield response
    else:
        with session.get(url, headers=headers, timeout=TIMEOUT, stream=True) as response:
            yield response


def _extent(response: Any) -> tuple[int, int | None]:
    """Where the body begins within the file, and the file's size."""
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code == 206 and ranged:
        return int(ranged[1]), None if ranged[2] == "*" else int(ranged[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


@contextmanager
def _network_errors() -> Generator[None]:
    """Sorts whatever the HTTP library raises, whichever it is: their exceptions share no base but Exception."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as reason:
        status = getattr(getattr(reason, "response", None), "status_code", None)
        name = type(reason).__name__
        text = f"{name}: {' '.join(str(reason).split())[:300]}" if str(reason) else name
        final = name in ("OfflineModeIsEnabled", "HFValidationError", "LocalTokenNotFoundError")
        if final or (status is not None and 400 <= status < 500 and status not in (408, 416, 425, 429)):
            raise Refused(text) from reason
        raise Interrupted(text) from reason
