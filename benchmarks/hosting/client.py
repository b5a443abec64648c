"""Talks to a running host as the front end does: queues a prompt, follows it, fetches what it made."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import websocket

if TYPE_CHECKING:
    from PIL.Image import Image

    from .workflows import Json, Prompt


class HostError(RuntimeError):
    """The host refused, failed or did not answer."""


class PromptError(HostError):
    """The host's validation rejected a prompt (HTTP 400). `node_errors`: node id -> its list of messages."""

    def __init__(self, body: Json, prompt: Prompt) -> None:
        self.node_errors: dict[str, list[str]] = {}
        for number, entry in (body.get("node_errors") or {}).items():
            kind = entry.get("class_type", "")
            self.node_errors[number] = [f"{one['message']}: {one['details']}" for one in entry["errors"]]
            title = prompt.get(number, {}).get("_meta", {}).get("title", kind)
            self.node_errors[number] = [
                f"node {number} {title!r} ({kind}): {e}" for e in self.node_errors[number]
            ]
        error = body.get("error") or {}
        head = error.get("message", str(error)) if isinstance(error, dict) else str(error)
        super().__init__("\n".join([head, *(line for lines in self.node_errors.values() for line in lines)]))


class ExecutionError(HostError):
    """A node raised while the host ran a prompt."""

    def __init__(self, data: Json) -> None:
        self.node: str = str(data.get("node_id"))
        self.node_type: str = data.get("node_type", "")
        self.exception_type: str = data.get("exception_type", "")
        self.exception_message: str = str(data.get("exception_message", "")).strip()
        self.traceback = "".join(data.get("traceback") or [])
        super().__init__(
            f"Node {self.node} ({self.node_type}) raised {self.exception_type}: {self.exception_message}\n"
            f"{self.traceback}"
        )


class InterruptError(HostError):
    """A prompt was interrupted before it was done."""


@dataclass(frozen=True)
class Progress:
    """How far a prompt is: `step` of `steps` in the node that runs, `done` of `nodes` nodes before it."""

    node: str
    title: str
    step: int
    steps: int
    done: int
    nodes: int


@dataclass(frozen=True)
class Result:
    """What a prompt made.

    outputs: node id -> the node's `ui` dictionary. cached: the nodes that the host did not have to run again.
    """

    prompt_id: str
    outputs: dict[str, Json]
    cached: frozenset[str] = frozenset()
    seconds: float = 0.0
    fetch_image: Callable[[Json], Image] | None = field(default=None, repr=False, compare=False)

    def images(self, node: str | int) -> list[Image]:
        """The pictures that a Save or Preview node shows."""
        if self.fetch_image is None:
            raise HostError("This result did not come from a host and has no pictures.")
        return [self.fetch_image(each) for each in self.outputs.get(str(node), {}).get("images", [])]

    def text(self, node: str | int) -> str:
        """The text that a node shows."""
        return "\n".join(str(each) for each in self.outputs.get(str(node), {}).get("text", ()))


class Client:
    """A client of the host at `url` (http://address:port)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        # A proxy of the environment must not stand between us and a host on this machine.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str, **query: str) -> Any:
        """The JSON at a path of the host."""
        return json.loads(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: str) -> bytes:
        target = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        try:
            with self._open(target, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise HostError(f"GET {path} answered {error.code} {error.reason}.") from error
        except urllib.error.URLError as error:
            raise HostError(f"GET {path}: no answer from {self.url} ({error.reason}).") from error

    def object_info(self) -> dict[str, Json]:
        """What the host says of each of its nodes."""
        return self.get("/object_info")

    def models(self, folder: str) -> list[str]:
        """The files that the host finds in a models folder."""
        return self.get(f"/models/{folder}")

    def image(self, reference: Json) -> Image:
        """The picture that a Save or Preview node names: {"filename", "subfolder", "type"}."""
        from PIL import Image

        picture = Image.open(io.BytesIO(self.get_bytes("/view", **reference)))
        picture.load()
        return picture

    def history(self, prompt_id: str) -> Json | None:
        """The record of a finished prompt, or None."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def submit(self, prompt: Prompt) -> str:
        """Queue a prompt and return its id. Raises PromptError if the host's validation rejects it."""
        body = json.dumps({"prompt": prompt, "client_id": self.client_id}).encode()
        request = urllib.request.Request(
            f"{self.url}/prompt", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with self._open(request, timeout=60) as answer:
                accepted = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            content = error.read()
            try:
                refusal = json.loads(content)
            except ValueError:
                raise HostError(f"POST /prompt answered {error.code}: {content[:500]!r}") from error
            raise PromptError(refusal, prompt) from error
        # The host drops an invalid branch and runs the others; a caller must not take that for success.
        if accepted.get("node_errors"):
            self._post("/queue", {"delete": [accepted["prompt_id"]]})
            self.interrupt()
            raise PromptError({"error": "A part of the prompt is invalid.", **accepted}, prompt)
        return str(accepted["prompt_id"])

    def interrupt(self) -> None:
        """Stop the prompt that runs now."""
        self._post("/interrupt", {})

    def free(self) -> None:
        """Have the host forget cached results and loaded models: the next prompt runs all of its nodes."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def run(
        self, prompt: Prompt, on_progress: Callable[[Progress], None] | None = None, timeout: float = 600.0
    ) -> Result:
        """Queue a prompt, follow it to its end and return what it made.

        on_progress: called for every step. timeout: seconds without any message from the host.
        Raises PromptError, ExecutionError, InterruptError; HostError when the host is gone or silent.
        """
        address = f"ws{self.url.removeprefix('http')}/ws?clientId={self.client_id}"
        try:
            connection = websocket.create_connection(address, timeout=timeout, http_no_proxy=["*"])
        except (OSError, websocket.WebSocketException) as error:
            raise HostError(f"No websocket at {self.url}: {error}") from error
        with contextlib.closing(connection):
            started = time.perf_counter()
            prompt_id = self.submit(prompt)
            cached = self._follow(connection, prompt_id, prompt, on_progress or (lambda _: None))
            seconds = time.perf_counter() - started
        return Result(prompt_id, self._outputs(prompt_id), cached, seconds, self.image)

    def _follow(
        self,
        connection: websocket.WebSocket,
        prompt_id: str,
        prompt: Prompt,
        on_progress: Callable[[Progress], None],
    ) -> frozenset[str]:
        cached: frozenset[str] = frozenset()
        started: list[str] = []
        for kind, data in _messages(connection):
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "execution_error":
                raise ExecutionError(data)
            if kind == "execution_interrupted":
                raise InterruptError(f"Prompt {prompt_id} was interrupted in node {data.get('node_id')}.")
            if kind == "execution_success" or (kind == "executing" and data.get("node") is None):
                return cached
            if kind == "execution_cached":
                cached = frozenset(map(str, data.get("nodes", ())))
            elif kind in ("executing", "progress") and data.get("node") is not None:
                node = str(data["node"])
                if node not in started:
                    started.append(node)
                title = prompt.get(node, {}).get("_meta", {}).get("title", node)
                done = len(cached) + len(started) - 1
                step, steps = int(data.get("value", 0)), int(data.get("max", 1))
                on_progress(Progress(node, title, step, steps, min(done, len(prompt)), len(prompt)))
        raise HostError("The host closed the websocket before the prompt was done.")

    def _outputs(self, prompt_id: str) -> dict[str, Json]:
        for _ in range(100):  # the history may lag a little behind the websocket
            record = self.history(prompt_id)
            if record is not None:
                return record["outputs"]
            time.sleep(0.05)
        raise HostError(f"The host has no history of the prompt {prompt_id}, which it said was done.")

    def _post(self, path: str, body: Json) -> None:
        request = urllib.request.Request(
            f"{self.url}{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with self._open(request, timeout=60):
            pass


def _messages(connection: websocket.WebSocket) -> Iterator[tuple[str, Json]]:
    while True:
        try:
            message = connection.recv()
        except websocket.WebSocketTimeoutException as error:
            raise HostError("The host said nothing for too long.") from error
        except (OSError, websocket.WebSocketException) as error:
            raise HostError(f"The websocket broke: {error}") from error
        if not message:
            return
        if isinstance(message, str):  # bytes are preview pictures
            parsed = json.loads(message)
            yield parsed["type"], parsed.get("data") or {}


class ProgressBar:
    """Shows Progress as one line that is written over; on a stream that is no terminal, one line per node."""

    def __init__(self, label: str = "", stream: Any = None, width: int = 24) -> None:
        self.label, self.stream, self.width = label, stream or sys.stderr, width
        self._last = ""

    def __call__(self, progress: Progress) -> None:
        share = (progress.done + progress.step / max(progress.steps, 1)) / max(progress.nodes, 1)
        filled = round(self.width * min(share, 1.0))
        steps = f" {progress.step}/{progress.steps}" if progress.steps > 1 else ""
        if self.stream.isatty():
            bar = "█" * filled + "·" * (self.width - filled)
            self.stream.write(f"\r\x1b[2K{self.label} {bar} {progress.title}{steps}")
        elif progress.title != self._last:
            self.stream.write(f"{self.label} {share:4.0%} {progress.title}\n")
        self._last = progress.title
        self.stream.flush()

    def close(self) -> None:
        if self.stream.isatty():
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
