"""Another project's file: its tensors, the configuration beside it, and what its user says of it.

Whether a matrix is (N, d) or (d, N) follows from its shape and the lengths of the biases. Projects use the same
names for both, so a name never decides it; where N = d somebody has to say it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from ...errors import BundleError
from ..fields import Field, listed, shown
from ..rows import require_finite
from .tensors import Tensors

ORIENTATIONS: Mapping[str, tuple[bool, bool] | None] = {
    "auto": None,
    "encoder N×d, decoder N×d": (True, True),
    "encoder N×d, decoder d×N": (True, False),
    "encoder d×N, decoder N×d": (False, True),
    "encoder d×N, decoder d×N": (False, False),
}
"""What a user can say of a file with N = d: whether latents are the rows of the encoder and of the decoder."""

CONFIGS = ("cfg.json", "config.json")


@dataclass(frozen=True)
class Declared:
    """What only its user can say of a file; None means that the file has to say it."""

    width: int | None = None
    """d of the site."""
    orientation: str = "auto"
    """One of `ORIENTATIONS`."""
    k: int | None = None
    """Of a TopK dictionary whose file does not say it."""
    input_scale: float | None = None
    """What activations were multiplied by in training, where it is not folded into the weights."""
    trained_here: bool = False
    """The dictionary was trained on this very site, although its format is usually used elsewhere."""


class Matrix(NamedTuple):
    """An encoder or a decoder as it is stored."""

    name: str
    latents_are_rows: bool
    """(N, d); otherwise (d, N)."""

    def read(self, tensors: Tensors, indices: Sequence[int]) -> Tensor:
        """Rows (S, d) in float64, finite."""
        read = tensors.rows if self.latents_are_rows else tensors.columns
        rows = read(self.name, indices)
        return require_finite(f"{tensors.path}: {self.name}", rows).double()


@dataclass(frozen=True)
class ForeignFile:
    """A file that has been opened but not understood yet."""

    tensors: Tensors
    config: Field | None = None
    """The JSON object beside it."""
    extras: Mapping[str, object] = field(default_factory=dict[str, object])
    """What a pickle holds beside tensors."""
    declared: Declared = Declared()

    @property
    def path(self) -> Path:
        return self.tensors.path

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.tensors.shapes)

    def refuse(self, expected: str, found: str, remedy: str, at: str = "") -> NoReturn:
        raise BundleError(
            f"{self.path}: {at}" if at else str(self.path), expected=expected, found=found, remedy=remedy
        )

    def settings(self, names: str) -> dict[str, Field]:
        """The configuration's fields; refuses if there is none or one of these names is not in it."""
        if self.config is None:
            self.refuse(
                f"{' or '.join(CONFIGS)} in the same folder, which says {names.replace(' ', ', ')}",
                "none",
                "Download the configuration too and put it beside the file.",
            )
        fields = self.config.mapping()
        for name in names.split():
            if name not in fields:
                self.config.refuse(f"the key {name!r}", f"only {listed(fields) or 'nothing'}")
        return fields

    def only(self, known: Iterable[str], format: str) -> None:
        """Refuses tensors that could mean what the reader does not know."""
        for name in sorted(self.names - set(known)):
            self.refuse(
                f"only the tensors that {format} is known to have",
                f"also {shown(name)} of shape {list(self.tensors.shapes[name])}",
                "What it does is not known, so the file is not read as something else. "
                "Choose another format, or export the dictionary without it.",
            )

    def agrees(self, said: Field, vector: Tensor) -> None:
        """Refuses a size in the configuration that is not the length of the vector that has it."""
        if said.integer(1) != vector.numel():
            said.refuse(f"{vector.numel()}, as the biases say", remedy=WRONG_SHAPE)

    def vector(self, name: str, length: int | None = None) -> Tensor:
        """A stored vector in float64, finite."""
        shape = self._shape(name)
        if len(shape) != 1 or 0 in shape or length not in (None, shape[0]):
            wanted = "a vector" if length is None else f"shape [{length}], as the other biases say"
            self.refuse(wanted, f"shape {list(shape)}", WRONG_SHAPE, at=name)
        return require_finite(f"{self.path}: {name}", self.tensors.whole(name)).double()

    def number(self, name: str) -> float:
        """A stored tensor of one number."""
        shape = self._shape(name, any_kind=True)
        if math.prod(shape) != 1:
            self.refuse("one number", f"shape {list(shape)}", WRONG_SHAPE, at=name)
        return float(require_finite(f"{self.path}: {name}", self.tensors.whole(name)).reshape(()))

    def matrices(self, encoder: str, decoder: str, latents: int, width: int) -> tuple[Matrix, Matrix]:
        """Encoder and decoder of N latents of width d, each in whichever orientation its shape says."""
        declared = self.declared
        if declared.orientation not in ORIENTATIONS:
            self.refuse(
                f"an orientation: {'; '.join(ORIENTATIONS)}", shown(declared.orientation), "Choose one."
            )
        if declared.width not in (None, width):
            self.refuse(f"width {declared.width}, as declared", f"width {width}", WRONG_SITE)
        for name in (encoder, decoder):
            shape = self._shape(name)
            if sorted(shape) != sorted((latents, width)):
                self.refuse(
                    f"shape [{latents}, {width}] or [{width}, {latents}], as the biases say",
                    f"{list(shape)}",
                    WRONG_SHAPE,
                    at=name,
                )
        said = ORIENTATIONS[declared.orientation]
        if latents == width:
            if said is None:
                self.refuse(
                    "matrices whose shape tells latents from width",
                    f"{latents} latents of width {width}",
                    f"Say the orientation: {'; '.join(list(ORIENTATIONS)[1:])}.",
                )
            return Matrix(encoder, said[0]), Matrix(decoder, said[1])
        shapes = self.tensors.shapes
        found = shapes[encoder] == (latents, width), shapes[decoder] == (latents, width)
        if said not in (None, found):
            self.refuse(
                f"{declared.orientation}, as declared",
                next(name for name, it in ORIENTATIONS.items() if it == found),
                "Leave the orientation at auto: the shapes tell it.",
            )
        return Matrix(encoder, found[0]), Matrix(decoder, found[1])

    def _shape(self, name: str, any_kind: bool = False) -> tuple[int, ...]:
        shapes = self.tensors.shapes
        if name not in shapes:
            self.refuse(
                f"the tensor {name}",
                f"only {', '.join(map(shown, sorted(shapes)[:12])) or 'none'}",
                "The file is cut short or of another format.",
            )
        if not any_kind and not self.tensors.is_float(name):
            self.refuse(
                "plain floating-point numbers",
                "another kind of tensor",
                "Export it in float32, float16 or bfloat16.",
                at=name,
            )
        return shapes[name]


def at_least_zero(threshold: Tensor) -> Tensor:
    """Thresholds of a rectified latent: below zero the rectifier decides."""
    return torch.clamp_min(threshold, 0.0)


WRONG_SHAPE = "The file is damaged, or its configuration belongs to another one."
WRONG_SITE = "Choose the file that was trained for this site."
