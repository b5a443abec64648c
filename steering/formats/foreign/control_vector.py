"""GGUF control vectors (repeng, llama.cpp): one direction per layer of a language model.

general.architecture is `controlvector`; tensors `direction.{layer}`, layers from 1 on, as 0 would be the embedding.
A control vector is added, not encoded and decoded, so it is no dictionary and becomes no bundle's autoencoder: it
becomes directions (steering/direction_files.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ...errors import BundleError
from ..fields import shown
from ..rows import require_finite
from ..whole import whole_file

_DIRECTION = re.compile(r"direction\.(\d{1,6})")
ARCHITECTURE = "controlvector"


@dataclass(frozen=True, eq=False)
class ControlVector:
    """Directions of one language model."""

    model: str
    """As the file hints; empty if it does not."""
    layers: Mapping[int, Tensor]
    """By layer, as the file numbers them: (d) in float32. GGUF counts from 1; 0 would be the embedding."""
    numbered: bool = True
    """Otherwise it is one direction of no said layer, under 0."""

    @property
    def width(self) -> int:
        return next(iter(self.layers.values())).numel()


def read_control_vector(path: Path) -> ControlVector:
    """Reads a GGUF control vector.

    Raises:
        BundleError: the package `gguf` is missing, or the file is no sound control vector.
    """
    reader = _open(path)
    architecture = _text(path, reader, "general.architecture")
    if architecture != ARCHITECTURE:
        _refuse(
            path,
            f"the architecture {ARCHITECTURE}",
            repr(architecture),
            "Choose a control vector, not a model.",
        )
    layers: dict[int, Tensor] = {}
    for stored in reader.tensors:
        named = _DIRECTION.fullmatch(stored.name)
        if named is None or int(named[1]) < 1:
            _refuse(path, "tensors direction.1, direction.2, ...", repr(stored.name), DAMAGED)
        if stored.tensor_type.name != "F32" or len(stored.shape) != 1:
            kind = f"{stored.tensor_type.name} of shape {[int(size) for size in stored.shape]}"
            _refuse(f"{path}: {stored.name}", "a vector in F32", kind, DAMAGED)
        values = torch.from_numpy(stored.data.copy())  # pyright: ignore[reportUnknownMemberType]
        if int(named[1]) in layers:
            _refuse(path, "each layer once", f"layer {int(named[1])} again", DAMAGED)
        layers[int(named[1])] = require_finite(f"{path}: {stored.name}", values)
    widths = {vector.numel() for vector in layers.values()}
    if len(widths) != 1 or 0 in widths:
        _refuse(path, "directions of one width", f"widths {sorted(widths)}", DAMAGED)
    count = _value(path, reader, f"{ARCHITECTURE}.layer_count")
    if count is not None and count != len(layers):
        _refuse(path, f"{shown(count)} directions, as its header says", f"{len(layers)}", DAMAGED)
    return ControlVector(_text(path, reader, f"{ARCHITECTURE}.model_hint"), dict(sorted(layers.items())))


def write_control_vector(path: Path, vector: ControlVector) -> None:
    """Writes a GGUF control vector in one stroke; an existing file is replaced.

    Raises:
        BundleError: the package `gguf` is missing, a layer is not from 1 on, or what was written does not read back.
    """
    gguf = _package(path)
    if not vector.layers or min(vector.layers) < 1:
        _refuse(
            path,
            "layers from 1 on",
            ", ".join(map(str, vector.layers)) or "none",
            "Number the layers from 1.",
        )
    with whole_file(path) as partial:
        writer = gguf.GGUFWriter(partial, ARCHITECTURE)
        try:
            writer.add_string(f"{ARCHITECTURE}.model_hint", vector.model)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vector.layers))
            for layer, values in sorted(vector.layers.items()):
                writer.add_tensor(f"direction.{layer}", values.detach().float().cpu().contiguous().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        read_control_vector(partial)


def _open(path: Path) -> Any:
    gguf = _package(path)
    try:
        return gguf.GGUFReader(path)
    except Exception as reason:  # a damaged file makes the reader fail in many ways
        raise BundleError(
            str(path),
            expected="a whole GGUF file",
            found=f"{type(reason).__name__}: {str(reason)[:200]}",
            remedy=DAMAGED,
        ) from reason


def _package(path: Path) -> Any:
    try:
        return import_module("gguf")
    except ModuleNotFoundError as reason:
        raise BundleError(
            str(path),
            expected="the package gguf, which reads and writes GGUF files",
            found="none in this Python",
            remedy="Install it with `python -m pip install gguf` (the extra `gguf` of this pack).",
        ) from reason


def _value(path: Path, reader: Any, key: str) -> object:
    field = reader.get_field(key)
    try:
        return None if field is None else field.contents()
    except Exception as reason:  # such as text that is not UTF-8
        raise BundleError(
            f"{path}: {key}",
            expected="a value that can be read",
            found=f"{type(reason).__name__}: {str(reason)[:200]}",
            remedy=DAMAGED,
        ) from reason


def _text(path: Path, reader: Any, key: str) -> str:
    value = _value(path, reader, key)
    return value if isinstance(value, str) else ""


def _refuse(where: Path | str, expected: str, found: str, remedy: str) -> NoReturn:
    raise BundleError(str(where), expected=expected, found=found, remedy=remedy)


DAMAGED = "The file is damaged or was not made by repeng or llama.cpp: download it again."
