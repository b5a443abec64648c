"""Directions in plain safetensors files, for which there is no standard.

Read are the names that are about: `direction` (d), or (L, d) for layers 0 to L − 1; `layers.{n}` and `direction.{n}`,
each (d). Written is `layers.{n}`, or `direction` where no layer is said, with the metadata `model`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ...errors import BundleError
from ..container import read_container, write_container
from ..fields import shown
from ..rows import OpenContainer, require_finite
from ..whole import whole_file
from .control_vector import ControlVector

ALONE = "direction"
NUMBERED = re.compile(r"(?:layers|direction)\.(\d{1,6})")


def read_direction_vectors(path: Path) -> ControlVector:
    """Reads directions by layer.

    Raises:
        BundleError: the file is damaged, or holds something else.
    """
    container = read_container(path)
    layers: dict[int, Tensor] = {}
    says_layers = True
    with OpenContainer(container) as file:
        for name in container.tensors:
            values = file.whole(name)
            if not values.dtype.is_floating_point:
                _refuse(f"{path}: {name}", "numbers with fractions", str(values.dtype))
            require_finite(f"{path}: {name}", values)
            numbered = NUMBERED.fullmatch(name)
            if name == ALONE and len(container.tensors) == 1 and values.ndim in (1, 2):
                says_layers = values.ndim == 2
                layers = dict(enumerate(values.float().unbind() if says_layers else (values.float(),)))
            elif numbered is not None and values.ndim == 1:
                if int(numbered[1]) in layers:
                    _refuse(f"{path}: {name}", "each layer once", f"layer {numbered[1]} again")
                layers[int(numbered[1])] = values.float()
            else:
                _refuse(
                    f"{path}: {shown(name)}",
                    "`direction` alone, or one vector each in `layers.1`, `layers.2`, ...",
                    f"{shown(name)} of shape {list(values.shape)}",
                )
    widths = {vector.numel() for vector in layers.values()}
    if len(widths) != 1 or 0 in widths:
        _refuse(str(path), "directions of one width", f"widths {sorted(widths)}")
    return ControlVector(container.metadata.get("model", ""), dict(sorted(layers.items())), says_layers)


def write_direction_vectors(path: Path, vector: ControlVector) -> None:
    """Writes directions by layer in one stroke; an existing file is replaced.

    Raises:
        BundleError: the file cannot be written.
    """
    tensors = {
        f"layers.{layer}" if vector.numbered else ALONE: ("F32", tuple(values.shape), _bytes(values))
        for layer, values in vector.layers.items()
    }
    with whole_file(path) as partial:
        write_container(partial, {"model": vector.model}, tensors)
        read_direction_vectors(partial)


def _bytes(values: Tensor) -> memoryview:
    return values.detach().float().cpu().contiguous().view(torch.uint8).numpy().data


def _refuse(where: str, expected: str, found: str) -> NoReturn:
    raise BundleError(where, expected=expected, found=found, remedy="Save the directions as one of these.")
