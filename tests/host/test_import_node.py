"""Import SAE: another project's file steers the host's model, and is refused in the queue where it cannot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from steerdit.host import folders
from steerdit.nodes.imported import SETTINGS, ImportSaeNode
from steerdit.steering.errors import BundleError
from steerdit.steering.formats.foreign.imported import ImportedBundle

from .steered import repelled
from .tiny import WIDTH, prompt, sample, tiny

N = 200
SITE = "double.1.image"
SAID: dict[str, Any] = {
    "family": "flux", "site": SITE, "latents": "0-199", "category": "everything", "threshold": 0.0, "format": "auto",
    "orientation": "auto", "width": 0, "k": 0, "input_scale": 0.0, "trained_here": False,
}  # fmt: skip


@pytest.fixture
def steering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models/steering of this test's own."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    known = {name: where for name, where in folder_paths.folder_names_and_paths.items() if name != "steering"}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    folders.register_steering_folder()
    return tmp_path / "models" / "steering"


def sparsify(steering: Path, width: int = WIDTH["flux"], **settings: Any) -> str:
    """A dictionary of EleutherAI's; its name in the combo."""
    folder = steering / "transformer_blocks.1"
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(1)
    encoder, decoder = (torch.randn(N, width, generator=draw) / width**0.5 for _ in range(2))
    state = {
        "encoder.weight": encoder,
        "W_dec": decoder,
        "encoder.bias": torch.zeros(N),
        "b_dec": torch.zeros(width),
    }
    save_file(state, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": 20, "d_in": width, **settings}))
    return str(Path("transformer_blocks.1", "sae.safetensors"))


def test_the_node_says_all_that_execute_takes() -> None:
    schema = ImportSaeNode.GET_SCHEMA()
    assert tuple(it.id for it in schema.inputs) == ("file", *SETTINGS)
    from steerdit.nodes.extension import SteerDiTExtension

    nodes = asyncio.run(SteerDiTExtension().get_node_list())
    assert "SteerDiT_ImportSAE" in [node.GET_SCHEMA().node_id for node in nodes]


def test_an_imported_dictionary_steers_and_no_gate_no_change(steering: Path, tmp_path: Path) -> None:
    name = sparsify(steering)
    assert ImportSaeNode.validate_inputs(name, **SAID) is True
    (bundle,) = ImportSaeNode.execute(name, **SAID).result
    assert isinstance(bundle, ImportedBundle)
    model, positive = tiny("flux", tmp_path), prompt("flux", 1)
    plain = sample(model, positive, positive)
    assert not torch.equal(sample(repelled(model, bundle), positive, positive), plain)
    (closed,) = ImportSaeNode.execute(name, **{**SAID, "threshold": 1e6}).result
    assert torch.equal(sample(repelled(model, closed), positive, positive), plain)


@pytest.mark.parametrize(
    ("said", "settings", "message"),
    [
        ({"site": "joint.1.image"}, {}, "a site in text, double, single"),
        ({"site": ""}, {}, "Say the site"),
        ({"latents": ""}, {}, "found no latent"),
        ({"latents": "200"}, {}, "0 to 199"),
        ({"width": 5}, {}, "expected width 5"),
        ({"format": "saelens"}, {}, "expected the key 'd_sae'"),
        ({"format": "nothing"}, {}, "expected the format auto"),
        ({"family": "wan"}, {}, "family: expected 'flux' or 'sd3'"),
        ({}, {"activation": "groupmax"}, "groupmax"),
        ({}, {"k": 0}, "k: expected a whole number, 1 to 200"),
    ],
)
def test_what_cannot_be_is_refused_in_the_queue(
    steering: Path, said: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    name = sparsify(steering, **settings)
    answer = ImportSaeNode.validate_inputs(name, **{**SAID, **said})
    assert isinstance(answer, str)
    assert message in answer
    with pytest.raises(ValueError, match="expected"):
        ImportSaeNode.execute(name, **{**SAID, **said})


def test_a_linked_input_is_judged_when_it_is_known(steering: Path) -> None:
    name = sparsify(steering)
    assert ImportSaeNode.validate_inputs(name, **{**SAID, "latents": None}) is True
    assert ImportSaeNode.validate_inputs(name, family="flux") is True
    assert ImportSaeNode.validate_inputs() is True


def test_pickles_are_sent_to_the_command_line(steering: Path) -> None:
    (steering / "ae.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(BundleError, match=r"found a pickle.*python -m steerdit convert"):
        ImportSaeNode.execute("ae.safetensors", **SAID)


def test_a_changed_file_configuration_or_input_runs_the_node_again(steering: Path) -> None:
    name = sparsify(steering)
    before = ImportSaeNode.fingerprint_inputs(name, **SAID)
    assert ImportSaeNode.fingerprint_inputs(name, **SAID) == before
    assert ImportSaeNode.fingerprint_inputs(name, **{**SAID, "threshold": 1.0}) != before
    sparsify(steering, multi_topk=True)
    assert ImportSaeNode.fingerprint_inputs(name, **SAID) != before
    assert ImportSaeNode.fingerprint_inputs("gone.safetensors", **SAID) == "missing"


def test_a_dictionary_of_another_width_is_refused_when_it_meets_the_model(
    steering: Path, tmp_path: Path
) -> None:
    (bundle,) = ImportSaeNode.execute(sparsify(steering, width=32), **SAID).result
    with pytest.raises(ValueError, match="found width 32"):
        repelled(tiny("flux", tmp_path), bundle)


def test_a_scale_beside_the_file_counts_as_part_of_it(steering: Path) -> None:
    name = sparsify(steering)
    before = ImportSaeNode.fingerprint_inputs(name, **SAID)
    (steering / "transformer_blocks.1" / "activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    assert ImportSaeNode.fingerprint_inputs(name, **SAID) != before
