"""The commands that make directions, in this process and with the host's own loaders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from steerdit.__main__ import main
from steerdit.host import headless
from steerdit.steering.direction_files import import_direction
from steerdit.steering.formats.bundle import open_bundle
from steerdit.steering.sites import Site
from steerdit.training.directions import language_model, read_anchors

from ..unit.encoders import NOUNS, Toy
from .encoders import tiny_clip


@pytest.fixture(autouse=True)
def _worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"category": risk, "unsafe": f"a {risk} {noun} on a table", "safe": f"a {noun} on a table"}
        for risk in ("bloody", "burning")
        for noun in NOUNS
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = read_anchors().texts[::20]
    (tmp_path / "benign.jsonl").write_text(
        "".join(json.dumps({"prompt": text, "label": "benign"}) + "\n" for text in texts)
    )
    (tmp_path / "unsafe.jsonl").write_text(json.dumps({"prompt": "a knife", "label": "unsafe"}) + "\n")
    said = {"prompt": f"A bloody {NOUNS[0]} on a table", "label": "benign"}
    (tmp_path / "mislabelled.jsonl").write_text(json.dumps(said) + "\n")


def test_a_direction_is_written_as_a_control_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy("toy", 20, 0)
    toy.layers = (0, 1, 2)
    monkeypatch.setattr("steerdit.training.directions.open_language_model", lambda *_: toy)
    out = tmp_path / "bloody.gguf"
    asked = [
        "direction",
        str(tmp_path / "pairs.jsonl"),
        "--to",
        str(out),
        "--category",
        "bloody",
        "--layer",
        "1",
    ]
    assert main(asked) == 0
    found = import_direction(out, category="bloody")
    assert (found.width, found.about.encoder.name, found.about.encoder.layer) == (20, "toy", 1)
    before = out.read_bytes()
    assert main(asked) == 1
    assert out.read_bytes() == before
    assert main([*asked, "--replace"]) == 0


def test_what_a_direction_cannot_be_made_of_is_said_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--to", str(tmp_path / "out.gguf")]
    assert main(["direction", str(tmp_path / "none.jsonl"), *out]) == 1
    assert "a readable file" in capsys.readouterr().err
    assert main(["direction", str(tmp_path / "pairs.jsonl"), "--source", str(tmp_path / "llm"), *out]) == 1
    assert language_model.SMOLLM2 in capsys.readouterr().err
    assert main(["direction", str(tmp_path / "none.jsonl"), "--to", str(tmp_path / "out.pt")]) == 1
    assert "a name ending with .gguf or .safetensors, found 'out.pt'" in capsys.readouterr().err
    assert not (tmp_path / "out.gguf").exists()


def test_directions_are_carried_to_a_generators_text_as_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from steerdit.host.encoder_states import HiddenLayers

    clip = tiny_clip("flux")
    monkeypatch.setattr("steerdit.training.directions.open_language_model", lambda *_: HiddenLayers(clip))
    monkeypatch.setattr(headless, "boot", lambda *_: "")
    monkeypatch.setattr(headless, "load_text_encoders", lambda *_: clip)
    out = tmp_path / "carried.safetensors"
    asked = [
        "transfer",
        str(tmp_path / "pairs.jsonl"),
        "--family",
        "flux",
        "--text-encoder",
        "t5.safetensors",
    ]
    asked += ["--anchors", str(tmp_path / "benign.jsonl"), "--to", str(out), "--license", "MIT"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "AUROC" in said
    assert "held-out R²" in said
    bundle = open_bundle(out)
    about = bundle.directions[Site("text")]
    assert about.names == ("bloody", "burning", "global")
    assert about.alignment is not None
    assert about.alignment.kind == "ridge"
    assert about.alignment.anchors.sha256 == read_anchors(tmp_path / "benign.jsonl").sha256
    assert bundle.header.made.recipe["map"] == "ridge"
    assert torch.isfinite(safetensors.torch.load_file(out)["text.direction"]).all()
    before = out.read_bytes()
    for more, said in (
        ([], "no file of that name"),
        (["--replace", "--anchors", str(tmp_path / "unsafe.jsonl")], "'benign' on every anchor"),
        (["--replace", "--benign", str(tmp_path / "mislabelled.jsonl")], "the unsafe side of a pair"),
        (["--replace", "--map", "affine"], "one of procrustes, ridge, mlp"),
        (["--replace", "--quantile", "99"], "a share from 0 to 1"),
        (["--to", str(tmp_path / "carried.gguf")], "a name ending with .safetensors"),
        (["--replace", "--floor", "1"], "held-out R²"),
        (["--replace", "--layer", "77"], "layers among"),
    ):
        assert main([*asked, *more]) == 1
        assert said in capsys.readouterr().err
        assert out.read_bytes() == before


def test_a_target_has_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "transfer",
        str(tmp_path / "pairs.jsonl"),
        "--family",
        "flux",
        "--to",
        str(tmp_path / "x.safetensors"),
    ]
    assert main(asked) == 1
    assert "--text-encoder or --checkpoint" in capsys.readouterr().err
