"""What a developer runs. Each line sets up all it needs and keeps it in `.nox`:

    python -m pip install nox && python -m nox -s demo      pictures with and without steering, in demo/out
    python -m pip install nox && python -m nox -s tests     checks and tests
    python -m nox -s bench -- NAME                          one measurement, to benchmarks/out
    python -m nox -s world                                  draw and train the emoji world again
    python -m nox -s lint                                   style, types and directions of import

All sessions share one virtual environment, because torch alone takes gigabytes; `lint -- style imports`, which needs no
torch, has a small one. Only `tests` needs other hosts than the one that STEERDIT_COMFYUI may name.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # the pack is not installed yet when its hosts are unpacked

from benchmarks.hosting.install import NEWEST, OLDEST, InstallFailed, install  # noqa: E402

ENVIRONMENT = ROOT / ".nox" / "steerdit"
STAMP = ENVIRONMENT / "installed.txt"
SMALL = ROOT / ".nox" / "lint"
TESTS = ("unit", "host", "server", "browser")
BENCHMARKS = ("repel", "editing", "kernels", "recordings", "safedig", "trainers", "transfer", "uvr")

nox.needs_version = ">=2024.3.2"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests"]


@nox.session
def demo(session: nox.Session) -> None:
    """Boot the host, make pictures with and without steering, and report what changed."""
    python = environment(session)
    run(session, python, "-m", "steerdit.benchmarks.demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All checks, then all tests; arguments after -- go to pytest instead of the default folders."""
    python = environment(session)
    for version in (NEWEST, OLDEST):
        unpacked(session, version)
    check(session, python)
    folders = [f"tests/{name}" for name in TESTS if (ROOT / "tests" / name).is_dir()]
    # Not `python -m pytest`: that puts the root on the path, where our `nodes` would hide the host's.
    run(session, python.with_name("pytest" + python.suffix), *(session.posargs or folders))


@nox.session
def bench(session: nox.Session) -> None:
    """One measurement: `nox -s bench -- repel`."""
    if not session.posargs:
        session.error("Name a benchmark: nox -s bench -- repel")
    python = environment(session)
    name, *rest = session.posargs
    if name not in BENCHMARKS:
        session.error(f"There is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}.")
    run(session, python, "-m", f"steerdit.benchmarks.{name}", *rest)


@nox.session
def world(session: nox.Session) -> None:
    """Draw the emoji world and train its generator, oracle and bundle again, from seeds; takes hours."""
    python = environment(session)
    if shutil.which("npm") is None:
        session.error(
            "The world's icons come from npm, which is not installed: install Node.js, then run this again."
        )
    run(session, python, "-m", "steerdit.benchmarks.emoji_scenes", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and directions of import; names after -- choose: style, types, imports."""
    names = session.posargs or list(CHECKS)
    check(session, environment(session) if "types" in names else small_environment(session), *names)


CHECKS = {
    "style": (("ruff", "check", "."), ("ruff", "format", "--check", "--quiet", ".")),
    "types": (("pyright",),),
    "imports": (("lint-imports", "--no-logo"),),
}


def check(session: nox.Session, python: Path, *names: str) -> None:
    """Runs the named checks, all by default."""
    for name in names or CHECKS:
        if name not in CHECKS:
            session.error(f"There is no check {name!r}; known: {', '.join(CHECKS)}.")
        for command, *arguments in CHECKS[name]:
            where = (
                ("--pythonpath", python) if command == "pyright" else ()
            )  # else it looks for torch elsewhere
            run(session, python.with_name(command + python.suffix), *where, *arguments)


def environment(session: nox.Session) -> Path:
    """The Python of the shared environment, with the default host unpacked and everything installed.

    What was installed is remembered by a hash of all that decides it, so that a second run begins at once.
    """
    python = python_of(ENVIRONMENT)
    requirements = [ROOT / "requirements-dev.txt", unpacked(session) / "requirements.txt"]
    alone = ROOT / "requirements-dev-alone.txt"
    state = fingerprint([*requirements, alone, ROOT / "pyproject.toml"])
    if python.exists() and STAMP.exists() and STAMP.read_text(encoding="utf-8") == state:
        return python

    began = time.monotonic()
    session.log(
        "Installing torch, the host's requirements and this pack into .nox/steerdit; this happens once."
    )
    if not python.exists() or not same_python(python):
        run(session, sys.executable, "-m", "venv", "--clear", ENVIRONMENT)
    STAMP.unlink(missing_ok=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install")
    # In one call, so that pip weighs the host's requirements and ours together and fetches torch once.
    run(session, *pip, *(part for file in requirements for part in ("-r", file)), "-e", f"{ROOT}[world]")
    run(session, *pip, "--no-deps", "-r", alone)
    STAMP.write_text(state, encoding="utf-8")
    session.log(f"Installed in {time.monotonic() - began:.0f} s.")
    return python


def small_environment(session: nox.Session) -> Path:
    """The Python of an environment with what style and directions of import need: neither torch nor a host."""
    folder, python = SMALL, python_of(SMALL)
    stamp, state = folder / STAMP.name, fingerprint([ROOT / "pyproject.toml"])
    if not (python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == state):
        run(session, sys.executable, "-m", "venv", "--clear", folder)
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install")
        run(session, *pip, "ruff", "import-linter")
        run(session, *pip, "--no-deps", "-e", ROOT)  # import-linter finds a package, not a folder
        stamp.write_text(state, encoding="utf-8")
    return python


def python_of(folder: Path) -> Path:
    """Where a virtual environment has its Python."""
    return folder / ("Scripts/python.exe" if platform.system() == "Windows" else "bin/python")


def unpacked(session: nox.Session, version: str | None = None) -> Path:
    """The source tree of a host; without a version, of the one that the demo runs in."""
    try:
        return install(version)
    except InstallFailed as failure:
        session.error(str(failure))


def fingerprint(files: list[Path]) -> str:
    """A hash of this Python and of the files' contents."""
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def same_python(python: Path) -> bool:
    """Whether an environment was made by the Python that runs nox."""
    asked = [python, "-c", "import sys; print(sys.version)"]
    answer = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False)
    return answer.returncode == 0 and answer.stdout.strip() == sys.version


def run(session: nox.Session, *command: str | Path) -> None:
    """Runs a command at the root. Our threads are few: the host and the tests run beside each other."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, min(4, os.cpu_count() or 1)))
    session.run(*map(str, command), env={"OMP_NUM_THREADS": threads, "PYTHONUTF8": "1"}, external=True)
