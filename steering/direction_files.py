"""Directions to and from files: bundles of ours, control vectors and plain safetensors of others.

A control vector is one direction, at some layers of a language model, and says neither what it stands for nor which way
is safe; both are said when it is imported. The layer that its file numbers l is taken for the hidden state l, 0 being
the embedding, unless another is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .directions import DirectionSet
from .errors import BundleError, SteeringError
from .formats.bundle import Bundle
from .formats.categories import require_category_name
from .formats.directions import Direction, DirectionSite, Encoder
from .formats.fields import Field
from .formats.foreign.control_vector import ControlVector, read_control_vector, write_control_vector
from .formats.foreign.direction_vectors import read_direction_vectors, write_direction_vectors
from .formats.header import Base, BundleHeader, Made
from .formats.writing import write_bundle
from .sites import Site

ENDINGS = (".gguf", ".safetensors")


def save_directions(
    path: Path,
    sites: Mapping[Site, DirectionSet],
    *,
    name: str,
    family: str,
    base: Base,
    license: str,
    by: str = "SteerDiT",
    recipe: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Bundle:
    """Writes a bundle of directions.

    Args:
        path: ends with .safetensors.
        replace: an existing file of another content; otherwise it is refused.
        recipe: whatever repeats the making, as plain JSON.

    Raises:
        SteeringError: directions of a hidden layer are to act on what a generator is given, or the bundle is unsound.
    """
    for site, directions in sites.items():
        encoder = directions.about.encoder
        if site == Site("text") and encoder.layer is not None:
            raise SteeringError(
                directions.source,
                expected="directions of the text encoder's output, which enters the generator",
                found=f"directions of {encoder.name} at its hidden layer {encoder.layer}",
                remedy="Carry them over with Transfer Direction first, or estimate them at the encoder's output.",
            )
    header = BundleHeader(
        name=name,
        family=family,
        base=base,
        license=license,
        made=Made(by, dict(recipe or {})),
        directions={site: directions.about for site, directions in sites.items()},
    )
    tensors = {
        f"{site}.{part}": tensor
        for site, directions in sites.items()
        for part, tensor in (("direction", directions.vectors), ("direction_mean", directions.mean))
    }
    return write_bundle(path, header, tensors, replace=replace)


def import_direction(
    path: Path,
    *,
    category: str,
    layer: int | None = None,
    hidden_state: int | None = None,
    points_to_safe: bool = True,
    encoder: str = "",
    fingerprint: str | None = None,
) -> DirectionSet:
    """One direction of a control vector or of a plain safetensors file, not calibrated.

    Args:
        category: what it stands for.
        layer: as the file numbers it; None where it holds but one.
        hidden_state: of the encoder, 0 being the embedding; None takes the file's number, or the output where the file
            says none.
        points_to_safe: as ours do; otherwise it is turned round.
        encoder: whose states; empty takes the file's word.
        fingerprint: of that encoder.

    Raises:
        SteeringError: the file is no such thing, or has no such layer; or a name that no bundle could hold.
    """
    require_category_name(category, Field("category", "", category, SteeringError, "Choose another name."))
    vector = _read(path)
    if layer is None and len(vector.layers) == 1:
        layer = next(iter(vector.layers))
    if layer is None or layer not in vector.layers:
        raise SteeringError(
            f"{path}: layer",
            expected=f"one of the layers {', '.join(map(str, vector.layers))}",
            found="none" if layer is None else f"{layer}",
            remedy="Choose a layer that the file holds.",
        )
    of = encoder or vector.model or "not said"
    states = Encoder(
        Field("encoder", "", of, SteeringError, "Say whose it is in a few words.").text(longest=200),
        fingerprint,
        layer if hidden_state is None and vector.numbered else hidden_state,
    )
    values = vector.layers[layer]
    about = DirectionSite(values.numel(), states, (Direction(category),))
    towards_safe = values if points_to_safe else -values
    return DirectionSet(about, towards_safe[None], torch.zeros_like(values), f"{path}: layer {layer}")


def export_direction(
    path: Path, directions: DirectionSet, category: str, layer: int | None = None, *, replace: bool = False
) -> None:
    """Writes one category's direction, pointing to the safe side: a control vector (.gguf) or plain safetensors.

    Args:
        layer: its number in the file; None takes the directions' hidden state.
        replace: an existing file of another content; otherwise it is refused.

    Raises:
        SteeringError: there is no such category, or no layer for a control vector.
    """
    _require_ending(path)
    (name,) = _one(directions, category)
    number = directions.about.encoder.layer if layer is None else layer
    if path.suffix.lower() == ".gguf" and not number:
        raise SteeringError(
            str(path),
            expected="a layer of the language model from 1 on, as control vectors have",
            found="none" if number is None else f"{number}",
            remedy="Say the layer, or write .safetensors.",
        )
    (values,) = directions.only((name,)).vectors
    vector = ControlVector(directions.about.encoder.name, {number or 0: values}, number is not None)
    if not replace and path.exists() and not _holds(path, vector):
        raise BundleError(
            str(path),
            expected="a new name, or the file that is to be written",
            found="a file of another content",
            remedy="Choose another name, or allow it to be replaced.",
        )
    write = {".gguf": write_control_vector, ".safetensors": write_direction_vectors}
    write[path.suffix.lower()](path, vector)


def _holds(path: Path, vector: ControlVector) -> bool:
    try:
        found = _read(path)
    except SteeringError:
        return False
    alike = (found.numbered, found.layers.keys()) == (vector.numbered, vector.layers.keys())
    return alike and all(torch.equal(found.layers[layer], values) for layer, values in vector.layers.items())


def _read(path: Path) -> ControlVector:
    _require_ending(path)
    return read_control_vector(path) if path.suffix.lower() == ".gguf" else read_direction_vectors(path)


def _require_ending(path: Path) -> None:
    if path.suffix.lower() not in ENDINGS:
        raise BundleError(
            str(path),
            expected=f"a name ending with {' or '.join(ENDINGS)}",
            found=repr(path.name),
            remedy="Directions in pickles (.pt, .pth) are not opened, because they can run code.",
        )


def _one(directions: DirectionSet, category: str) -> tuple[str, ...]:
    names = directions.chosen(category).names
    if len(names) != 1:
        raise SteeringError(
            "category",
            expected=f"one of {', '.join(directions.names)}",
            found=repr(category),
            remedy="These files hold one direction each: name one.",
        )
    return names
