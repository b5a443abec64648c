"""Save Bundle, Import Direction and Export Direction, with the host's own folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch

from steerdit.host import folders
from steerdit.nodes.bundle import LoadBundleNode
from steerdit.nodes.direction_files import ExportDirectionNode, ImportDirectionNode, SaveBundleNode
from steerdit.steering.errors import BundleError, SteeringError

from ..unit.directions import small_directions
from .direction_bundles import direction_bundle, directions_at, steered_conditioning
from .slots import WIDTH, prompt

SAVED: dict[str, Any] = {
    "name": "mine", "family": "wan", "site": "text", "base": "tiny", "license": "MIT", "replace": False
}  # fmt: skip


@pytest.fixture(autouse=True)
def steering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models/steering of this test's own."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    known = {name: where for name, where in folder_paths.folder_names_and_paths.items() if name != "steering"}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    folders.register_steering_folder()
    return tmp_path / "models" / "steering"


def test_a_saved_bundle_steers_at_once_and_is_listed(steering: Path, tmp_path: Path) -> None:
    made = direction_bundle(tmp_path, "wan", {"text": WIDTH})
    bundle, file = SaveBundleNode.execute(direction=directions_at(made), **SAVED).args
    assert folders.list_bundles() == [file] == ["mine.safetensors"]
    (loaded,) = LoadBundleNode.execute(file).args
    expected = steered_conditioning(prompt("wan", 1), made)[0][0]
    for one in (bundle, loaded):
        assert torch.equal(steered_conditioning(prompt("wan", 1), one)[0][0], expected)
    other = directions_at(direction_bundle(tmp_path, "wan", {"text": WIDTH}, seed=22))
    with pytest.raises(BundleError, match="another content"):
        SaveBundleNode.execute(direction=other, **SAVED)
    SaveBundleNode.execute(direction=other, **{**SAVED, "replace": True})


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/b", "", ".hidden", "x" * 101])
def test_names_that_lead_elsewhere(name: str, steering: Path) -> None:
    with pytest.raises(BundleError, match="letters, digits, spaces"):
        SaveBundleNode.execute(direction=small_directions(), **{**SAVED, "name": name})
    assert not list(steering.iterdir())


@pytest.mark.parametrize(
    ("field", "value"), [("site", "nowhere"), ("site", "double.1.text"), ("license", "a|b")]
)
def test_what_a_bundle_cannot_say_is_refused_and_nothing_is_left(
    field: str, value: str, steering: Path
) -> None:
    with pytest.raises(SteeringError):
        SaveBundleNode.execute(direction=small_directions(), **{**SAVED, field: value})
    assert not list(steering.iterdir())


def test_directions_of_another_familys_encoder_are_not_saved(steering: Path) -> None:
    directions = small_directions()
    umt5 = replace(directions.about, encoder=replace(directions.about.encoder, name="umt5xxl"))
    with pytest.raises(SteeringError, match=r"expected T5, which ltx has \(t5xxl\), found umt5xxl"):
        SaveBundleNode.execute(direction=replace(directions, about=umt5), **{**SAVED, "family": "ltx"})
    assert not list(steering.iterdir())
    SaveBundleNode.execute(direction=replace(directions, about=umt5), **SAVED)


@pytest.mark.parametrize("format", [".gguf", ".safetensors"])
def test_export_and_import(format: str, steering: Path) -> None:
    directions = small_directions()
    out: dict[str, Any] = {"name": "out", "format": format, "layer": 9, "replace": False}
    (file,) = ExportDirectionNode.execute(direction=directions, category="bloody", **out).args
    assert Path(file) == steering / f"out{format}"
    assert folders.list_vectors() == [f"out{format}"]
    assert ImportDirectionNode.GET_SCHEMA().inputs[0].options == [f"out{format}"]
    said: dict[str, Any] = {
        "category": "b",
        "layer": -1,
        "points_to_safe": False,
        "encoder": "",
        "hidden_state": -1,
    }
    (back,) = ImportDirectionNode.execute(file=f"out{format}", **said).args
    assert back.names == ("b",)
    assert back.about.encoder.layer == 9
    assert torch.equal(back.vectors[0], -directions.vectors[1])
    before = ImportDirectionNode.fingerprint_inputs(file=f"out{format}", **said)
    assert before != ImportDirectionNode.fingerprint_inputs(file=f"out{format}", **{**said, "category": "c"})
    with pytest.raises(BundleError, match="none of that name"):
        ImportDirectionNode.execute(file="../out.gguf", **said)
