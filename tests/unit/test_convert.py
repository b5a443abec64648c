"""`python -m steerdit convert`: pickles and foreign files become bundles, whole or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerdit.__main__ import main
from steerdit.steering.formats.bundle import open_bundle, verify
from steerdit.steering.formats.foreign import Declared, open_foreign
from steerdit.steering.sites import Site

from .test_control_vector import control_vector
from .test_foreign_files import D, K, N, drawn, finebooru, openai_state

SITE = "double.2.image"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An OpenAI TopK autoencoder."""
    torch.manual_seed(3)
    state = openai_state(drawn()) | {
        "activation": "TopK",
        "activation_state_dict": {"k": K, "postact_fn": "ReLU"},
    }
    torch.save(state, tmp_path / "ae.pt")
    return tmp_path / "ae.pt"


def convert(file: Path, *others: str, site: str = SITE) -> int:
    return main(["convert", str(file), "--family", "flux", "--site", site, *others])


def test_a_pickle_becomes_a_bundle(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = checkpoint.with_name("mine.safetensors")
    options = ["--category", "weapons=3,7:0.5", "--category", "bloody = 1-2", "--threshold", "0.25"]
    options += ["--name", "mine", "--base", "FLUX.1-dev", "--license", "MIT", "--dtype", "BF16"]
    assert convert(checkpoint, "--to", str(target), *options) == 0
    said = capsys.readouterr()
    assert f"{N} topk latents of width {D} at {SITE}" in said.out
    assert f"{N}/{N}" in said.err  # progress
    bundle = verify(target)
    sae = bundle.sites[Site.parse(SITE)]
    assert (bundle.name, bundle.header.base.name, bundle.header.license) == ("mine", "FLUX.1-dev", "MIT")
    assert (sae.activation, sae.k, sae.input_norm) == ("topk", K, "layer_norm")
    assert bundle.categories == ("weapons", "bloody")
    assert sae.categories["weapons"].gate.image == 0.25
    assert bundle.header.made.recipe["imported"] == {"format": "OpenAI", "file": "ae.pt"}
    assert bundle.tensors[f"{SITE}.encoder"].dtype == "BF16"
    assert bundle.tensors[f"{SITE}.encoder_bias"].dtype == "F32"


def test_a_folder_s_name_gives_the_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = finebooru(tmp_path / "cc3m-transformer_blocks.18-1", drawn())
    assert convert(file, site="") == 0
    bundle = open_bundle(file.with_name("model.bundle.safetensors"))
    assert [str(site) for site in bundle.sites] == ["double.18.image"]
    assert "no category yet" in capsys.readouterr().err
    again = bundle.read_latents(Site.parse("double.18.image"))
    for one, other in zip(again, open_foreign(file, Declared()).read(), strict=True):
        assert one == other if not isinstance(one, torch.Tensor) else torch.equal(one, other)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--category", "weapons"], "--category weapons: expected NAME=LATENTS"),
        (["--category", "a=1", "--category", "a=2"], "found the name again"),
        (["--category", "a=99"], r"latents\[0\]: expected a whole number, 0 to 14"),
        (["--width", "7"], "expected width 7, as declared, found width 6"),
        (["--config", "nowhere.json"], "nowhere.json: expected a readable JSON file"),
        (["--license", "?"], "expected an SPDX licence expression"),
        (["--to", "bundle.pt"], "expected a name ending with .safetensors"),
        (["--k", "9"], f"expected k 9, as declared, found k {K}"),
        (["--input-scale", "2"], "expected input scale 1, as each token is standardised"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(
    checkpoint: Path, others: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(checkpoint, *others) == 1
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert [path.name for path in checkpoint.parent.iterdir()] == ["ae.pt"]


def test_an_existing_file_is_replaced_only_on_request(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = checkpoint.with_name("ae.bundle.safetensors")
    target.write_bytes(b"precious")
    assert convert(checkpoint) == 1
    assert "Name another with --to, or give --replace" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert convert(checkpoint, "--replace") == 0
    assert verify(target).name == "ae"


def test_a_control_vector_is_not_taken_for_an_autoencoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = control_vector(tmp_path / "v.gguf", {"direction.1": np.ones(8, "f4")}, 1)
    assert convert(file) == 1
    assert "found a control vector of qwen3: 1 directions of width 8" in capsys.readouterr().err


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["convert", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(
        option in text for option in ("--family", "--site", "--category", "--orientation", "--trained-here")
    )
    with pytest.raises(SystemExit):
        main(["convert", "x.pt"])  # without a family


def test_the_configuration_beside_a_pickle_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = drawn()
    state: dict[str, Any] = {
        "encoder.weight": parts["encoder"],
        "encoder.bias": parts["encoder_bias"],
        "decoder.weight": parts["decoder"].T,
        "bias": parts["decoder_bias"],
    }
    torch.save(state, tmp_path / "ae.pt")
    assert convert(tmp_path / "ae.pt") == 1
    assert "with no configuration beside it" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    assert convert(tmp_path / "ae.pt", "--config", str(elsewhere)) == 0
