"""The folder models/steering, the combo, Load and Download, with the host's own folder and node modules."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
import utils.extra_config

from steerdit.delivery.manifest import HubFile, Shipped, Weight, read_manifest
from steerdit.host import folders
from steerdit.nodes import bundle as nodes
from steerdit.steering.errors import BundleError, DownloadError
from steerdit.steering.formats.bundle import Bundle
from steerdit.steering.formats.header import Base, BundleHeader, Made, SaeSite
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site


def a_bundle(path: Path, name: str = "small") -> Path:
    site = SaeSite(width=4, latents=3, activation="relu")
    tensors = {f"text.{part}": torch.ones(shape) for part, shape in site.tensor_shapes().items()}
    header = BundleHeader(name, "flux", Base("random"), "MIT", Made("tests"), {Site.parse("text"): site})
    write_bundle(path, header, tensors)
    return path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder of this test's own, with `steering` not yet registered."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    known = {name: where for name, where in folder_paths.folder_names_and_paths.items() if name != "steering"}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path / "models" / "steering"


def test_the_folder_is_made_and_lists_bundles_alone(models: Path) -> None:
    assert folders.list_bundles() == []
    folders.register_steering_folder()
    folders.register_steering_folder()
    assert folder_paths.folder_names_and_paths["steering"] == ([str(models)], {".safetensors"})
    a_bundle(models / "one.safetensors")
    a_bundle(models / "flux" / "two.safetensors")
    for other in ("notes.txt", "old.pt", ".three.safetensors.0123.part"):
        (models / other).write_bytes(b"")
    assert folders.list_bundles() == [os.path.join("flux", "two.safetensors"), "one.safetensors"]
    assert (
        folders.resolve_bundle(os.path.join("flux", "two.safetensors")) == models / "flux" / "two.safetensors"
    )


def test_extra_model_paths_are_honoured(models: Path, tmp_path: Path) -> None:
    config = tmp_path / "extra_model_paths.yaml"
    config.write_text(f"shared:\n  base_path: {tmp_path / 'shared'}\n  steering: bundles\n", encoding="utf-8")
    utils.extra_config.load_extra_path_config(str(config))
    folders.register_steering_folder()
    shared = tmp_path / "shared" / "bundles"
    a_bundle(shared / "shared.safetensors")
    (shared / "readme.md").write_text("not a bundle", encoding="utf-8")
    a_bundle(models / "own.safetensors")
    assert folders.list_bundles() == ["own.safetensors", "shared.safetensors"]
    assert folders.resolve_bundle("shared.safetensors") == shared / "shared.safetensors"
    assert folders.bundle_folders() == [shared, models]


@pytest.mark.parametrize(
    "name", ["gone.safetensors", "../../secret.safetensors", "/etc/passwd", "own.pt", ""]
)
def test_a_name_without_a_file_is_refused_with_those_there_are(
    models: Path, tmp_path: Path, name: str
) -> None:
    folders.register_steering_folder()
    a_bundle(models / "own.safetensors")
    a_bundle(tmp_path / "secret.safetensors")
    (models / "own.pt").write_bytes(b"")
    with pytest.raises(BundleError, match=r"expected one of own\.safetensors, found no such file") as refusal:
        folders.resolve_bundle(name)
    assert str(models) in refusal.value.remedy


def test_load_gives_the_bundle_and_follows_changes_of_the_file(models: Path) -> None:
    folders.register_steering_folder()
    path = a_bundle(models / "one.safetensors")
    schema = nodes.LoadBundleNode.GET_SCHEMA()
    assert schema.inputs[0].options == ["one.safetensors"]
    assert nodes.LoadBundleNode.validate_inputs("one.safetensors") is True
    (loaded,) = nodes.LoadBundleNode.execute("one.safetensors").result
    assert isinstance(loaded, Bundle)
    assert loaded.name == "small"
    before = nodes.LoadBundleNode.fingerprint_inputs("one.safetensors")
    assert nodes.LoadBundleNode.fingerprint_inputs("one.safetensors") == before
    a_bundle(path, name="another name")
    assert nodes.LoadBundleNode.fingerprint_inputs("one.safetensors") != before
    assert nodes.LoadBundleNode.fingerprint_inputs("gone.safetensors") == "missing"


def test_load_refuses_a_bad_file_when_the_prompt_is_queued(models: Path) -> None:
    folders.register_steering_folder()
    (models / "bad.safetensors").write_bytes(b"\x80\x04\x95" + bytes(200))
    message = nodes.LoadBundleNode.validate_inputs("bad.safetensors")
    assert isinstance(message, str)
    assert "a Python pickle, which SteerDiT never opens" in message
    assert str(models / "bad.safetensors") in message


@pytest.fixture
def shipped(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weight:
    """A manifest with one bundle that comes with the pack."""
    source = a_bundle(tmp_path / "pack" / "bundles" / "world.safetensors")
    monkeypatch.setattr("steerdit.delivery.download.PACK", tmp_path / "pack")
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    weight = Weight(
        "world", "bundle", "flux", "world.safetensors", Shipped("bundles/world.safetensors"), digest, len(content),
        "MIT", "For this test.",
    )  # fmt: skip
    manifest = read_manifest()
    monkeypatch.setattr("steerdit.delivery.manifest.read_manifest", lambda: type(manifest)((weight,)))
    folders.register_steering_folder()
    return weight


def test_download_puts_a_bundle_where_load_finds_it(models: Path, shipped: Weight) -> None:
    schema = nodes.DownloadBundleNode.GET_SCHEMA()
    assert schema.inputs[0].options == ["world", "repository"]
    arguments = ("world", "", "", "")
    before = nodes.DownloadBundleNode.fingerprint_inputs(*arguments)
    bundle, name = nodes.DownloadBundleNode.execute(*arguments).result
    assert (bundle.path, name) == (models / "world.safetensors", "world.safetensors")
    assert folders.list_bundles() == [name]
    assert nodes.DownloadBundleNode.fingerprint_inputs(*arguments) != before
    assert nodes.DownloadBundleNode.execute(*arguments).result[0].header == bundle.header


def test_download_checks_what_is_typed(models: Path, shipped: Weight) -> None:
    for repository, file in [
        ("", ""),
        ("someone", "a.safetensors"),
        ("someone/b", "a.pt"),
        ("a/b", "../x.safetensors"),
    ]:
        with pytest.raises(DownloadError, match="Copy both names"):
            nodes.DownloadBundleNode.execute("repository", repository, file, "")
        assert nodes.DownloadBundleNode.fingerprint_inputs("repository", repository, file, "") == "missing"
    with pytest.raises(DownloadError, match="64 hexadecimal digits"):
        nodes.DownloadBundleNode.execute("repository", "someone/b", "a.safetensors", "abc")


def test_cancel_reaches_the_download_and_ends_the_run_as_the_host_does(
    models: Path, shipped: Weight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport alone is replaced; the bar, the flag and the exception are the host's."""
    from steerdit.delivery import download as downloads
    from steerdit.delivery.transport import Body, Origin

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda there, total, preview, node_id=None: seen.append((there, total)),
    )

    def pieces():
        for _ in range(10):
            yield bytes(1000)
            comfy.model_management.interrupt_current_processing(True)

    class Arriving:
        def __enter__(self) -> Body:
            return Body(0, 10_000, pieces())

        def __exit__(self, *error: object) -> None:
            pass

    def located(source: HubFile) -> Origin:
        return Origin("http://nowhere", 10_000, "tag", None)

    monkeypatch.setattr(downloads, "locate", located)
    monkeypatch.setattr(downloads, "arriving", lambda url, start: Arriving())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        nodes.DownloadBundleNode.execute("repository", "someone/b", "a.safetensors", "")
    assert not comfy.model_management.processing_interrupted()
    assert (0, 10_000) in seen
    (partial,) = models.glob(".a.safetensors.*.part")
    assert partial.stat().st_size == 2000


def test_the_pack_s_extension_offers_both_nodes_and_every_node_has_a_help_page() -> None:
    from steerdit.nodes.extension import SteerDiTExtension

    ids = [node.GET_SCHEMA().node_id for node in asyncio.run(SteerDiTExtension().get_node_list())]
    assert {"SteerDiT_LoadBundle", "SteerDiT_DownloadBundle"} <= set(ids)
    docs = Path(sys.modules["steerdit"].__file__ or "").parent / "web" / "docs"
    for name in ("SteerDiT_LoadBundle", "SteerDiT_DownloadBundle"):
        assert (docs / f"{name}.md").read_text(encoding="utf-8").startswith("# ")
