"""Directions come back from files as they were written, and what is something else is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from steerdit.steering.direction_files import export_direction, import_direction, save_directions
from steerdit.steering.directions import DirectionSet
from steerdit.steering.errors import BundleError, SteeringError
from steerdit.steering.formats.bundle import open_bundle
from steerdit.steering.formats.directions import Direction, DirectionSite, Encoder
from steerdit.steering.formats.foreign.control_vector import (
    ControlVector,
    read_control_vector,
    write_control_vector,
)
from steerdit.steering.formats.foreign.direction_vectors import (
    read_direction_vectors,
    write_direction_vectors,
)
from steerdit.steering.formats.header import Base
from steerdit.steering.sites import Site

from .directions import SITE, SMOLLM, WIDTH, small_directions
from .test_control_vector import control_vector

TEXT = Site("text")
SAVED: dict[str, Any] = {"name": "d", "family": "flux", "base": Base("tiny"), "license": "MIT"}
AT_SOURCE = dataclasses.replace(SITE, encoder=SMOLLM, alignment=None, benign=None)
WRITERS = {".gguf": write_control_vector, ".safetensors": write_direction_vectors}
READERS = {".gguf": read_control_vector, ".safetensors": read_direction_vectors}


@settings(deadline=None, max_examples=30)
@given(
    ending=st.sampled_from(list(WRITERS)),
    layers=st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_layers_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, ending: str, layers: list[int], width: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("vector") / f"v{ending}"
    draw = torch.Generator().manual_seed(seed)
    vector = ControlVector("smollm2", {layer: torch.randn(width, generator=draw) for layer in layers})
    WRITERS[ending](path, vector)
    read = READERS[ending](path)
    assert read.model == "smollm2"
    assert [*read.layers] == sorted(layers)
    assert all(torch.equal(read.layers[layer], vector.layers[layer]) for layer in layers)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_control_vector_is_what_llama_cpp_reads(tmp_path: Path) -> None:
    """By the package's own reader: architecture, hint, count, and F32 vectors from layer 1 on."""
    export_direction(tmp_path / "v.gguf", small_directions(about=AT_SOURCE), "weapons")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    fields = {name: reader.get_field(name) for name in reader.fields}
    assert fields["general.architecture"].contents() == "controlvector"
    assert fields["controlvector.model_hint"].contents() == "SmolLM2-135M-Instruct"
    assert fields["controlvector.layer_count"].contents() == 1
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name) == ("direction.14", "F32")
    assert torch.equal(torch.from_numpy(tensor.data.copy()), small_directions().vectors[0])


@pytest.mark.parametrize("ending", list(WRITERS))
def test_a_direction_goes_out_and_comes_back(ending: str, tmp_path: Path) -> None:
    directions, path = small_directions(about=AT_SOURCE), tmp_path / f"v{ending}"
    export_direction(path, directions, "global")
    back = import_direction(path, category="everything", fingerprint=SMOLLM.fingerprint)
    assert back.about == DirectionSite(WIDTH, SMOLLM, (Direction("everything"),))
    assert torch.equal(back.vectors, directions.vectors[2:])
    turned = import_direction(path, category="everything", points_to_safe=False, hidden_state=15, encoder="x")
    assert torch.equal(turned.vectors, -directions.vectors[2:])
    assert turned.about.encoder == Encoder("x", None, 15)
    export_direction(path, directions, "global")
    with pytest.raises(BundleError, match="found a file of another content"):
        export_direction(path, directions, "weapons")
    assert torch.equal(import_direction(path, category="x").vectors, back.vectors)
    export_direction(path, directions, "weapons", replace=True)
    assert torch.equal(import_direction(path, category="x").vectors, directions.vectors[:1])


def test_plain_safetensors_of_others(tmp_path: Path) -> None:
    path, v = tmp_path / "v.safetensors", torch.randn(3, 8)
    save_file({"direction": v[0].half()}, path)
    found = import_direction(path, category="a")
    assert torch.equal(found.vectors[0], v[0].half().float())
    assert found.about.encoder == Encoder("not said")
    save_file({"direction": v}, path)
    assert torch.equal(import_direction(path, category="a", layer=2).vectors[0], v[2])
    save_file({"layers.4": v[0], "direction.7": v[1].bfloat16()}, path, {"model": "qwen3"})
    found = import_direction(path, category="a", layer=7)
    assert torch.equal(found.vectors[0], v[1].bfloat16().float())
    assert found.about.encoder == Encoder("qwen3", None, 7)
    with pytest.raises(SteeringError, match="expected one of the layers 4, 7, found none"):
        import_direction(path, category="a")
    with pytest.raises(SteeringError, match="expected one of the layers 4, 7, found 5"):
        import_direction(path, category="a", layer=5)
    export_direction(path, small_directions(), "weapons", replace=True)
    assert load_file(path).keys() == {"direction"}


@pytest.mark.parametrize("layer", [None, 0, 14])
def test_the_output_and_the_embedding_are_told_apart(layer: int | None, tmp_path: Path) -> None:
    def at(layer: int | None) -> DirectionSet:
        about = dataclasses.replace(SITE, encoder=dataclasses.replace(SMOLLM, layer=layer))
        return small_directions(about=about)

    path = tmp_path / "v.safetensors"
    export_direction(path, at(layer), "weapons")
    assert import_direction(path, category="weapons").about.encoder.layer == layer
    assert import_direction(path, category="weapons", hidden_state=3).about.encoder.layer == 3
    export_direction(path, at(layer), "weapons")
    with pytest.raises(BundleError, match="found a file of another content"):
        export_direction(path, at(0 if layer is None else None), "weapons")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path, v = tmp_path / "v.safetensors", torch.ones(8)
    for tensors, message in (
        ({"W_dec": torch.ones(4, 8)}, "`direction` alone"),
        ({"direction": v, "layers.1": v}, "`direction` alone"),
        ({"layers.1": torch.ones(2, 4)}, r"of shape \[2, 4\]"),
        ({"layers.1": v, "layers.2": torch.ones(9)}, "directions of one width"),
        ({"layers.1": v, "direction.1": v}, "each layer once"),
        ({"direction": v.long()}, "numbers with fractions"),
        ({"direction": v * torch.nan}, "finite numbers"),
        ({}, "directions of one width"),
    ):
        save_file({name: values.clone() for name, values in tensors.items()}, path)
        with pytest.raises(BundleError, match=message):
            import_direction(path, category="a")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError):
        import_direction(path, category="a")
    torch.save({"direction": v}, tmp_path / "v.pt")
    with pytest.raises(BundleError, match="pickles"):
        import_direction(tmp_path / "v.pt", category="a")
    control_vector(tmp_path / "v.gguf", {"direction.1": v.numpy()}, 1, "llama")
    with pytest.raises(BundleError, match="the architecture controlvector"):
        import_direction(tmp_path / "v.gguf", category="a")


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    directions = small_directions()
    for path, category, message in (
        ("v.gguf", "weapons", "a layer of the language model from 1 on"),
        ("v.pt", "weapons", "a name ending with"),
        ("v.safetensors", "all", "expected one of weapons, bloody, global"),
        ("v.safetensors", "alcohol", "alcohol"),
    ):
        with pytest.raises(SteeringError, match=message):
            export_direction(tmp_path / path, directions, category)
    with pytest.raises(BundleError, match="from 1 on"):
        write_control_vector(tmp_path / "v.gguf", ControlVector("", {0: torch.ones(3)}))
    with pytest.raises(BundleError, match="finite"):
        write_control_vector(tmp_path / "v.gguf", ControlVector("", {1: torch.ones(3) * torch.inf}))
    with pytest.raises(BundleError, match="finite"):
        write_direction_vectors(tmp_path / "v.safetensors", ControlVector("", {1: torch.ones(3) * torch.inf}))
    assert not list(tmp_path.iterdir())


def test_a_saved_bundle_holds_the_directions_and_their_evidence(tmp_path: Path) -> None:
    path, directions = tmp_path / "d.safetensors", small_directions()
    save_directions(path, {TEXT: directions}, **SAVED, recipe={"pairs": 40})
    bundle = open_bundle(path)
    assert bundle.header.made.recipe == {"pairs": 40}
    assert bundle.directions == {TEXT: SITE}
    assert torch.equal(DirectionSet.of_bundle(bundle, TEXT).vectors, directions.vectors)


def test_a_file_of_another_content_is_replaced_only_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_directions(path, {TEXT: small_directions(1)}, **SAVED)
    before = path.read_bytes()
    save_directions(path, {TEXT: small_directions(1)}, **SAVED)
    with pytest.raises(BundleError, match="found a file of another content"):
        save_directions(path, {TEXT: small_directions(2)}, **SAVED)
    assert path.read_bytes() == before
    save_directions(path, {TEXT: small_directions(2)}, **SAVED, replace=True)
    assert path.read_bytes() != before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_directions_of_a_hidden_layer_do_not_become_a_bundle_for_text(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match=r"at its hidden layer 14.*Transfer Direction"):
        save_directions(tmp_path / "d.safetensors", {TEXT: small_directions(about=AT_SOURCE)}, **SAVED)
    block = {Site.parse("double.3.text"): small_directions(about=AT_SOURCE)}
    save_directions(tmp_path / "d.safetensors", block, **SAVED)


@pytest.mark.parametrize("name", ["", " ", "all", "a, b", "-x", "a\nb", "c" * 101])
def test_what_no_bundle_could_hold_is_refused_when_it_is_imported(name: str, tmp_path: Path) -> None:
    directions = small_directions()
    export_direction(tmp_path / "v.gguf", directions, "weapons", layer=3)
    with pytest.raises(SteeringError, match="Choose another name"):
        import_direction(tmp_path / "v.gguf", category=name)
    if len(name) > 1:
        with pytest.raises(SteeringError, match=r"encoder: .*Say whose it is"):
            import_direction(tmp_path / "v.gguf", category="x", encoder=f" {name}" * 3)
