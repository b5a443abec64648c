"""Directions made on the canvas: pairs from a file, an estimate, a map on benign prompts, a bundle that steers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch

from steerdit.host import folders
from steerdit.host.encoder_states import HiddenLayers, TextSlot
from steerdit.nodes.direction_files import ExportDirectionNode, ImportDirectionNode, SaveBundleNode
from steerdit.nodes.directions import (
    AlignEncodersNode,
    CalibrateDirectionNode,
    EstimateDirectionNode,
    TransferDirectionNode,
)
from steerdit.nodes.encoders import HIDDEN, LoadLanguageModelNode, TextEncoderNode
from steerdit.nodes.pairs import LoadPairsNode
from steerdit.nodes.steer_direction import SteerConditioningNode
from steerdit.steering.errors import SteeringError
from steerdit.training.directions import read_anchors
from steerdit.training.recordings.prompts import PromptRow

from ..unit.encoders import NOUNS
from .encoders import tiny_clip

NODES = (
    LoadPairsNode, EstimateDirectionNode, AlignEncodersNode, TransferDirectionNode, CalibrateDirectionNode,
    LoadLanguageModelNode, TextEncoderNode,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip() -> Any:
    with torch.inference_mode():
        return tiny_clip("flux")


@pytest.fixture(scope="module")
def anchors() -> tuple[PromptRow, ...]:
    return tuple(PromptRow(text, "benign") for text in read_anchors().texts[::15])


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs and models of this test's own."""
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    known = {name: where for name, where in folder_paths.folder_names_and_paths.items() if name != "steering"}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    folders.register_steering_folder()
    rows = [
        {"category": risk, "unsafe": f"a {risk} {noun} on a table", "safe": f"a {noun} on a table"}
        for risk in ("bloody", "burning")
        for noun in NOUNS
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))


def pairs() -> Any:
    return LoadPairsNode.execute("pairs.jsonl").args[0]


def test_pairs_are_listed_counted_and_refused_when_queued(tmp_path: Path) -> None:
    assert LoadPairsNode.GET_SCHEMA().inputs[0].options == ["pairs.jsonl"]
    found, summary = LoadPairsNode.execute("pairs.jsonl").args
    assert len(found.pairs) == 2 * len(NOUNS)
    assert summary.startswith(f"{2 * len(NOUNS)} pairs, 1 duplicates left out\nbloody: {len(NOUNS)} pairs")
    assert LoadPairsNode.validate_inputs("pairs.jsonl") is True
    before = LoadPairsNode.fingerprint_inputs("pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text('{"unsafe": "x"}\n')
    assert "line 1: safe" in str(LoadPairsNode.validate_inputs("pairs.jsonl"))
    assert LoadPairsNode.fingerprint_inputs("pairs.jsonl") != before
    assert "a file ending in" in str(LoadPairsNode.validate_inputs("../pairs.jsonl"))


def test_a_direction_is_estimated_carried_saved_and_steers(clip: Any, anchors: tuple[PromptRow, ...]) -> None:
    (source,) = TextEncoderNode.execute(clip, HIDDEN, "t5xxl").args
    (target,) = TextEncoderNode.execute(clip, "flux", "").args
    assert isinstance(source, HiddenLayers)
    assert isinstance(target, TextSlot)
    direction, report = EstimateDirectionNode.execute(source, pairs(), 2, False).args
    assert "layer 2" in report
    assert "halves agree to" in report
    alignment, report = AlignEncodersNode.execute(source, target, direction, "ridge", 0.1, 0, anchors).args
    assert "shuffled pairs: R²" in report
    carried, report = TransferDirectionNode.execute(direction, alignment, target, 0.99, anchors).args
    assert carried.names == ("bloody", "burning", "global")
    assert "bloody: threshold" in report
    together, _ = TransferDirectionNode.execute(direction, alignment, target, 0.99, anchors, joint=True).args
    assert bool((together.thresholds >= carried.thresholds).all())
    assert not torch.equal(together.thresholds, carried.thresholds)
    native, _ = EstimateDirectionNode.execute(target, pairs(), -1, False).args
    assert native.about.encoder.layer is None
    with pytest.raises(SteeringError, match="t5xxl: expected layers among the output, found 2"):
        EstimateDirectionNode.execute(target, pairs(), 2, False)
    assert torch.cosine_similarity(carried.vectors, native.vectors).min() > 0.5
    said = {"family": "flux", "site": "text", "base": "tiny", "license": "MIT", "replace": False}
    bundle, _ = SaveBundleNode.execute(direction=carried, name="carried", **said).args
    about = next(iter(bundle.directions.values()))
    assert about.alignment.anchors.sha256 == alignment.anchors.sha256
    assert about.benign.count == len(anchors)
    ExportDirectionNode.execute(direction, "bloody", "bloody", ".gguf", -1, False)
    (imported,) = ImportDirectionNode.execute("bloody.gguf", "bloody", -1, True, "", -1).args
    again, _ = TransferDirectionNode.execute(imported, alignment, target, 0.99, anchors).args
    torch.testing.assert_close(again.vectors[0], carried.vectors[0])
    steer = {
        "bundle": bundle,
        "operator": "project_out",
        "strength": 2.0,
        "categories": "all",
        "keep_norm": True,
    }
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a bloody cat on a table"))
    changed, _, _ = SteerConditioningNode.execute(
        conditioning=conditioning, weights="uniform", clip=clip, **steer
    ).args
    assert not torch.equal(changed[0][0], conditioning[0][0])
    calibrated, report = CalibrateDirectionNode.execute(native, target, 0.9, anchors).args
    assert calibrated.about.alignment is None
    assert all(one.threshold is not None for one in calibrated.about.directions)


def test_the_layer_is_chosen_by_benign_texts_of_the_target(clip: Any, anchors: tuple[PromptRow, ...]) -> None:
    source, target = HiddenLayers(clip), TextSlot(clip, "flux")
    direction, report = EstimateDirectionNode.execute(source, pairs(), -1, False, target, anchors).args
    assert direction.about.encoder.layer in source.layers
    assert report.count("AUROC") == len(source.layers)
    alone, _ = EstimateDirectionNode.execute(source, pairs(), -1, True).args
    assert alone.about.encoder.layer == 2


def test_unsafe_anchors_other_encoders_and_bad_maps_are_refused(
    clip: Any, anchors: tuple[PromptRow, ...]
) -> None:
    source, target = HiddenLayers(clip), TextSlot(clip, "flux")
    direction, _ = EstimateDirectionNode.execute(source, pairs(), 2, False).args
    mixed = (*anchors[:5], PromptRow("a bloody cat", "unsafe", "bloody", "1"))
    for run in (
        lambda: AlignEncodersNode.execute(source, target, direction, "ridge", 0.1, 0, mixed),
        lambda: EstimateDirectionNode.execute(source, pairs(), -1, False, target, mixed),
        lambda: CalibrateDirectionNode.execute(direction, target, 0.99, mixed),
    ):
        with pytest.raises(
            SteeringError, match="prompt 6: label: expected 'benign' on every anchor, found 'unsafe'"
        ):
            run()
    with pytest.raises(SteeringError, match="expected directions of l, of width 16, at one of its layers"):
        AlignEncodersNode.execute(HiddenLayers(clip, "l"), target, direction, "ridge", 0.1, 0, anchors)
    with pytest.raises(
        SteeringError, match="expected directions of t5xxl, of width 24, at one of its layers"
    ):
        AlignEncodersNode.execute(target, source, direction, "ridge", 0.1, 0, anchors)
    with pytest.raises(SteeringError, match="held-out R² at least 1 above"):
        AlignEncodersNode.execute(source, target, direction, "ridge", 1.0, 0, anchors)
    alignment, _ = AlignEncodersNode.execute(source, target, direction, "procrustes", 0.0, 0, anchors).args
    other, _ = EstimateDirectionNode.execute(source, pairs(), 3, False).args
    with pytest.raises(SteeringError, match="expected directions of t5xxl at layer 2"):
        TransferDirectionNode.execute(other, alignment, target, 0.99, anchors)
    with pytest.raises(SteeringError, match="where the directions live"):
        TransferDirectionNode.execute(
            direction, alignment, TextSlot(tiny_clip("flux", seed=1), "flux"), 0.99, anchors
        )


def test_language_models_are_listed_by_the_folders_that_hold_them(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "LLM" / "someone" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "someone/tiny" not in LoadLanguageModelNode.GET_SCHEMA().inputs[0].options
    (folder / "model.safetensors").write_bytes(b"")
    (tmp_path / "models" / "LLM" / "small.gguf").write_bytes(b"GGUF")
    options = LoadLanguageModelNode.GET_SCHEMA().inputs[0].options
    assert {"someone/tiny", "small.gguf"} <= set(options)
    with pytest.raises(SteeringError, match="that transformers can read"):
        LoadLanguageModelNode.execute("someone/tiny", "cpu")
    with pytest.raises(SteeringError, match="a whole GGUF file"):
        LoadLanguageModelNode.execute("small.gguf", "default")
    with pytest.raises(SteeringError, match="none of that name"):
        LoadLanguageModelNode.execute("../tiny", "cpu")


@pytest.mark.parametrize("node", NODES)
def test_each_node_has_a_help_page_that_names_its_inputs(node: Any) -> None:
    schema = node.GET_SCHEMA()
    page = (Path(__file__).parents[2] / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    for one in schema.inputs:
        assert one.id in page
        assert one.tooltip
