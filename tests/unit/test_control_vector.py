"""GGUF control vectors, as the package `gguf` writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import gguf
import numpy as np
import pytest

from steerdit.steering.errors import BundleError
from steerdit.steering.formats.foreign.control_vector import read_control_vector


def control_vector(
    path: Path, directions: dict[str, Any], count: int, architecture: str = "controlvector"
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "qwen3")
    writer.add_uint32("controlvector.layer_count", count)
    for name, values in directions.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_control_vectors_come_back_by_layer(tmp_path: Path) -> None:
    vectors = {
        f"direction.{layer}": np.random.default_rng(layer).normal(size=8).astype("f4") for layer in (1, 2, 31)
    }
    read = read_control_vector(control_vector(tmp_path / "v.gguf", vectors, 3))
    assert (read.model, read.width, [*read.layers]) == ("qwen3", 8, [1, 2, 31])
    for layer, vector in read.layers.items():
        np.testing.assert_array_equal(vector, vectors[f"direction.{layer}"])


def test_control_vectors_that_are_not_sound_are_refused(tmp_path: Path) -> None:
    good = np.ones(8, "f4")
    for directions, count, architecture, message in (
        ({"direction.0": good}, 1, "controlvector", "expected tensors direction.1, direction.2"),
        ({"blk.1": good}, 1, "controlvector", "expected tensors direction.1, direction.2"),
        (
            {"direction.1": good, "direction.2": np.ones(9, "f4")},
            2,
            "controlvector",
            "directions of one width",
        ),
        ({"direction.1": good}, 2, "controlvector", "expected 2 directions, as its header says"),
        ({"direction.1": good * np.nan}, 1, "controlvector", "expected finite numbers"),
        ({"direction.1": np.ones((2, 4), "f4")}, 1, "controlvector", "expected a vector in F32"),
        ({"direction.1": np.ones(8, "f2")}, 1, "controlvector", "expected a vector in F32"),
        (
            {"direction.1": good, "direction.01": good},
            2,
            "controlvector",
            "each layer once, found layer 1 again",
        ),
        ({"direction.1": good}, 1, "llama", "expected the architecture controlvector"),
    ):
        path = control_vector(tmp_path / "v.gguf", directions, count, architecture)
        with pytest.raises(BundleError, match=message):
            read_control_vector(path)
    whole = path.read_bytes()
    for content in (whole[:40], whole[:-8], b"", b"GGUF"):
        path.write_bytes(content)
        with pytest.raises(BundleError) as refusal:
            read_control_vector(path)
        assert refusal.value.remedy


@pytest.mark.parametrize(
    ("method", "value"), [("add_string", "three"), ("add_array", [1, 2]), ("add_float32", float("nan"))]
)
def test_a_count_that_is_none_is_refused(method: str, value: Any, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    getattr(writer, method)("controlvector.layer_count", value)
    writer.add_tensor("direction.1", np.ones(8, "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BundleError, match="directions, as its header says, found 1"):
        read_control_vector(tmp_path / "v.gguf")


def test_damaged_bytes_are_refused_or_read(tmp_path: Path) -> None:
    good = np.ones(8, "f4")
    content = control_vector(tmp_path / "v.gguf", {"direction.1": good, "direction.2": good}, 2).read_bytes()
    draw, path = Random(0), tmp_path / "damaged.gguf"
    for _ in range(300):
        damaged = bytearray(content if draw.random() < 0.8 else content[: draw.randrange(1, len(content))])
        for _ in range(draw.choice((1, 4))):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 128, 255))
        path.write_bytes(damaged)
        try:
            assert read_control_vector(path).width
        except BundleError:
            continue


def test_without_the_package_gguf_its_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BundleError, match=r"python -m pip install gguf.*extra `gguf`"):
        read_control_vector(tmp_path / "v.gguf")
