"""A real ComfyUI host in a process of its own: headless, on the CPU, in a base directory of its own.

The demo, the benchmarks and the tests steer models where users do: through a server's /prompt. `running`
starts one from an unchanged source tree with `main.py`, waits until it answers, and always ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class HostStartError(RuntimeError):
    """The host did not start, or ended too early. The message ends with the tail of its log."""


@dataclass(frozen=True)
class Setup:
    """What a host's base directory holds.

    packs: name under custom_nodes -> folder of the pack (linked, not copied).
    models: folder under models (`diffusion_models`, `steering`, ...) -> files to link there.
    extra_model_paths: folder name -> directory, for an extra_model_paths.yaml as users share models by.
    inputs: files to link into the input folder.
    settings: the front end's settings of the default user.
    """

    packs: Mapping[str, Path] = field(default_factory=dict[str, Path])
    models: Mapping[str, Iterable[Path]] = field(default_factory=dict[str, Iterable[Path]])
    extra_model_paths: Mapping[str, Path] = field(default_factory=dict[str, Path])
    inputs: Iterable[Path] = ()
    settings: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class Host:
    """A host that answers. `base` is its base directory, `log` the file that takes its output."""

    url: str
    base: Path
    log: Path
    process: subprocess.Popen[bytes]
    boot_seconds: float

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def running(
    source: Path,
    setup: Setup | None = None,
    *,
    base: Path | None = None,
    python: str | Path = sys.executable,
    port: int | None = None,
    threads: int | None = None,
    arguments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    timeout: float = 240.0,
) -> Iterator[Host]:
    """Start the ComfyUI source tree at `source` and yield it once it answers; end it when the block is left.

    base: an empty or new directory to keep (log, outputs); a temporary one, removed afterwards, if None.
    threads: torch threads of the host, all cores if None. arguments: further ones for main.py.
    timeout: seconds until it must answer. Raises HostStartError with the tail of the log.
    """
    source = Path(source)
    if not (source / "main.py").is_file():
        raise HostStartError(f"{source} is not a ComfyUI source tree: it has no main.py.")
    with contextlib.ExitStack() as stack:
        if base is None:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steerdit-host-")))
        base = base.resolve()
        extra = prepare(base, setup or Setup())
        port = port or free_port()
        log = base / "host.log"
        command = [
            str(python), "main.py", "--cpu", "--port", str(port), "--base-directory", str(base),
            "--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch",
            "--use-pytorch-cross-attention", *extra, *arguments,
        ]  # fmt: skip
        output = stack.enter_context(log.open("wb"))
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=source,
            env=_environment(threads, environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # ctrl-C reaches us alone, and we end the host in order
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        stack.callback(_end, process)
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url, log, timeout)
        yield Host(url, base, log, process, time.perf_counter() - started)


def prepare(base: Path, setup: Setup) -> list[str]:
    """Fill a base directory as `setup` says; returns the arguments of main.py that belong to it."""
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in setup.packs.items():
        _link(pack, base / "custom_nodes" / name)
    for folder, files in setup.models.items():
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
        for file in files:
            _link(file, base / "models" / folder / file.name)
    for file in setup.inputs:
        _link(file, base / "input" / file.name)
    if setup.settings:
        user = base / "user" / "default"
        user.mkdir(parents=True, exist_ok=True)
        (user / "comfy.settings.json").write_text(json.dumps(dict(setup.settings)), encoding="utf-8")
    if not setup.extra_model_paths:
        return []
    config = base / "extra_model_paths.yaml"
    paths = {folder: str(Path(path).resolve()) for folder, path in setup.extra_model_paths.items()}
    config.write_text(json.dumps({"elsewhere": paths}), encoding="utf-8")  # JSON is YAML
    return ["--extra-model-paths-config", str(config)]


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_tail(log: Path, lines: int = 40) -> str:
    """The last lines of a host's log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _link(target: Path, link: Path) -> None:
    target = Path(target).resolve()
    if not target.exists():
        raise HostStartError(f"{target} does not exist; it was to be linked as {link}.")
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target, target_is_directory=target.is_dir())


def _environment(threads: int | None, extra: Mapping[str, str] | None) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    # A host must find our pack in custom_nodes alone, as a user's does, and reach no network while it boots.
    environment.pop("PYTHONPATH", None)
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment | dict(extra or {})


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise HostStartError(
                f"The host ended with status {process.returncode} before it answered.\n{log_tail(log)}"
            )
        with contextlib.suppress(OSError), opener.open(f"{url}/system_stats", timeout=5):
            return
        time.sleep(0.1)
    raise HostStartError(f"The host did not answer at {url} within {timeout:.0f} s.\n{log_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGINT as ctrl-C would send it, then by force; the whole group, since nodes may start processes."""
    for sign in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, sign)
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def _die_with_parent() -> None:
    """In the child, before exec: have Linux end it when our process is killed and can run no `finally`."""
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM)
