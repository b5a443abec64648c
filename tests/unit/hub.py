"""A loopback server that answers as a Hugging Face hub does, and can fail as networks do."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """One request and what was sent for it."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Hub:
    """Files by `/owner/name/resolve/revision/path`; the knobs change how they are served."""

    files: dict[str, bytes]
    large: bool = True
    """Tag files with their sha256, as the hub does for LFS; else with their git id."""
    cuts: list[int] = field(default_factory=list)
    """The n-th GET ends after so many bytes of its body."""
    ranges: bool = True
    slow: float = 0.0
    """Seconds to rest after each piece."""
    storage: str | None = None
    """Another server to which GETs are sent on, as the hub does with large files."""
    status: int = 200
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def gets(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET"]


@contextmanager
def serving(hub: Hub, port: int = 0) -> Generator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def end_headers(self) -> None:
            # One request per connection, or a client would keep talking to the server of an earlier test.
            self.send_header("Connection", "close")
            self.close_connection = True
            super().end_headers()

        def answer(self) -> None:
            wanted = self.headers.get("Range")
            asked = Asked(self.command, self.path, wanted, self.headers.get("Authorization"))
            hub.asked.append(asked)
            content = hub.files.get(self.path)
            asked.status = hub.status if hub.status != 200 else (404 if content is None else 200)
            if asked.status != 200 or content is None:
                self.send_response(asked.status)
                if asked.status == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            if wanted and hub.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if hub.large:
                tag = hashlib.sha256(content).hexdigest()
            else:
                tag = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            away = hub.storage is not None
            asked.status = 302 if away else (206 if start else 200)
            self.send_response(asked.status)
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            if away:
                self.send_header("Location", f"{hub.storage}{self.path}")
                self.send_header("X-Linked-ETag", f'"{tag}"')
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            body = content[start:]
            cut = hub.cuts.pop(0) if hub.cuts else len(body)
            for position in range(0, min(cut, len(body)), 1 << 16):
                self.wfile.write(body[position : min(position + (1 << 16), cut)])
                asked.sent += min(1 << 16, cut - position, len(body) - position)
                threading.Event().wait(hub.slow)
            if cut < len(body):
                self.wfile.flush()
                self.connection.shutdown(2)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
