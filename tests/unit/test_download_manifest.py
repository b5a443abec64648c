"""The manifest as the pack reads it: the same entries that its schema allows, and downloads by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import safetensors.torch
import torch

from steerdit.delivery import download as downloads
from steerdit.delivery.download import download
from steerdit.delivery.manifest import (
    MANIFEST,
    HubFile,
    ManifestError,
    Shipped,
    WebFile,
    Weight,
    read_manifest,
)
from steerdit.steering.errors import DownloadError

SCHEMA = json.loads((MANIFEST.parent / "weights_manifest.schema.json").read_text(encoding="utf-8"))


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "name": "emoji-flux",
        "kind": "bundle",
        "family": "flux",
        "file": "emoji.safetensors",
        "source": {"path": "bundles/emoji.safetensors"},
        "sha256": "0" * 64,
        "bytes": 12,
        "license": "Apache-2.0",
        "description": "Latents of the emoji world.",
        **changes,
    }


def written(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "weights_manifest.json"
    path.write_text(
        json.dumps({"$schema": "./weights_manifest.schema.json", "weights": entries}), encoding="utf-8"
    )
    return path


def test_the_pack_s_own_manifest_is_sound() -> None:
    read_manifest()


def test_entries_are_found_by_name(tmp_path: Path) -> None:
    hub = {"repo_id": "someone/bundles", "filename": "flux/big.safetensors", "revision": "v1"}
    web = {"url": "https://example.org/a.safetensors"}
    manifest = read_manifest(
        written(
            tmp_path,
            entry(),
            entry(name="big", file="big.safetensors", source=hub),
            entry(name="eye", file="eye.safetensors", source=web, kind="oracle", family=None),
        )
    )
    assert manifest.find("emoji-flux").source == Shipped("bundles/emoji.safetensors")
    assert manifest.find("big").source == HubFile("someone/bundles", "flux/big.safetensors", "v1")
    assert manifest.find("eye").source == WebFile("https://example.org/a.safetensors")
    assert [weight.name for weight in manifest.bundles] == ["emoji-flux", "big"]
    assert [weight.name for weight in manifest.shipped] == ["emoji-flux"]
    with pytest.raises(ManifestError, match="expected one of emoji-flux, big, eye, found 'emoji'"):
        manifest.find("emoji")


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "name with spaces": lambda e: e.update(name="emoji flux"),
    "no name": lambda e: e.pop("name"),
    "kind": lambda e: e.update(kind="lora"),
    "family": lambda e: e.update(family="qwen"),
    "file in a folder": lambda e: e.update(file="a/b.safetensors"),
    "file of another kind": lambda e: e.update(file="b.pt"),
    "hidden file": lambda e: e.update(file=".safetensors"),
    "path out of the pack": lambda e: e.update(source={"path": "../b.safetensors"}),
    "absolute path": lambda e: e.update(source={"path": "/b.safetensors"}),
    "two sources": lambda e: e.update(source={"path": "b.safetensors", "url": "https://a.b/c.safetensors"}),
    "no source": lambda e: e.update(source={}),
    "plain http": lambda e: e.update(source={"url": "http://a.b/c.safetensors"}),
    "repository without owner": lambda e: e.update(source={"repo_id": "a", "filename": "c.safetensors"}),
    "pickle in a repository": lambda e: e.update(source={"repo_id": "a/b", "filename": "c.pt"}),
    "short digest": lambda e: e.update(sha256="0" * 63),
    "capital digest": lambda e: e.update(sha256="A" * 64),
    "no bytes": lambda e: e.update(bytes=0),
    "fractional bytes": lambda e: e.update(bytes=1.5),
    "licence": lambda e: e.update(license="see website!"),
    "short description": lambda e: e.update(description="weights"),
    "unknown field": lambda e: e.update(url="x"),
}


@pytest.mark.parametrize("case", WRONG)
def test_schema_and_reader_refuse_the_same_entries(tmp_path: Path, case: str) -> None:
    wrong = entry()
    WRONG[case](wrong)
    path = written(tmp_path, wrong)
    with pytest.raises(ManifestError, match=r"weights_manifest\.json: weights\[0\]") as refusal:
        read_manifest(path)
    assert refusal.value.remedy
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), SCHEMA)


def test_names_that_occur_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="expected each name once, found 'emoji-flux' more than once"):
        read_manifest(written(tmp_path, entry(), entry(file="other.safetensors")))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"weights": 1}', '{"weights": [], "more": 1}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"m\.json"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(ManifestError, match="readable"):
        read_manifest(tmp_path / "nowhere.json")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weight:
    """An entry whose file lies in a stand-in for the pack's folder."""
    content = safetensors.torch.save({"weight": torch.zeros(4)})
    (tmp_path / "pack" / "bundles").mkdir(parents=True)
    (tmp_path / "pack" / "bundles" / "emoji.safetensors").write_bytes(content)
    monkeypatch.setattr(downloads, "PACK", tmp_path / "pack")
    digest = hashlib.sha256(content).hexdigest()
    source = Shipped("bundles/emoji.safetensors")
    return Weight(
        "emoji", "bundle", "flux", "emoji.safetensors", source, digest, len(content), "MIT", "For a test."
    )


def test_a_shipped_file_is_put_into_place_without_a_network(shipped: Weight, tmp_path: Path) -> None:
    path = download(shipped, tmp_path / "steering")
    assert path == tmp_path / "steering" / "emoji.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shipped.sha256
    assert download(shipped, tmp_path / "steering") == path


def test_a_damaged_shipped_file_is_not(shipped: Weight, tmp_path: Path) -> None:
    with (tmp_path / "pack" / "bundles" / "emoji.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(DownloadError, match="Restore the file from the pack's repository"):
        download(shipped, tmp_path / "steering")
    assert not list((tmp_path / "steering").iterdir())


def test_an_entry_s_own_sha256_cannot_be_overruled(shipped: Weight, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="as the manifest says"):
        download(shipped, tmp_path, sha256="1" * 64)
    with pytest.raises(DownloadError, match="64 hexadecimal digits"):
        download(HubFile("a/b", "c.safetensors"), tmp_path, sha256="abc")
