"""Some rows of a tensor in a safetensors file, and no others.

They are read by their place in the file, which the container's checked table gives. The library's own reader maps
the file into memory instead, and one row may then bring megabytes of its neighbours with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO

import torch
from torch import Tensor

from ..errors import BundleError
from .container import ITEM_SIZES, Container, TensorSpan
from .fields import DAMAGED, listed

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What can be read, by the container's names."""


class OpenContainer:
    """The file of a container, open for reading; a BundleError if it is not the one whose table was read."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def __enter__(self) -> OpenContainer:
        self.container.unchanged()
        try:
            self.file = FileIO(self.container.path)  # a buffered one would read on past a row
        except OSError as reason:
            raise self._refusal(reason.strerror or str(reason)) from reason
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.file.close()
        if error is None:
            self.container.unchanged()  # or what was read may be neither the old nor the new

    def whole(self, name: str) -> Tensor:
        """A tensor in its own dtype."""
        span = self.container.tensors[name]
        found = self._empty(span, span.shape)
        self._fill(span, 0, found)
        return found

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        """Rows (S, ...) of a tensor in its own dtype, each run of neighbouring rows read at once.

        Raises:
            IndexError: an index is not from 0 to N − 1.
        """
        span = self.container.tensors[name]
        latents, *rest = span.shape
        _require_inside(name, indices, latents)
        found = self._empty(span, (len(indices), *rest))
        size, done = math.prod(rest), 0
        for start, stop in _runs(indices):
            count = stop - start
            self._fill(span, start * size, found[done : done + count])
            done += count
        return found

    def columns(self, name: str, indices: Sequence[int]) -> Tensor:
        """Columns of a matrix (d, N), as rows (S, d): of each of the d lines what lies between the first and the last.

        Raises:
            IndexError: an index is not from 0 to N − 1.
        """
        span = self.container.tensors[name]
        width, latents = span.shape
        _require_inside(name, indices, latents)
        found = self._empty(span, (width, len(indices)))
        if indices:
            first = min(indices)
            line = self._empty(span, (max(indices) + 1 - first,))
            at = torch.tensor(indices) - first
            neighbours = torch.equal(at, torch.arange(len(line)))
            for row in range(width):
                into = found[row] if neighbours else line
                self._fill(span, row * latents + first, into)
                if not neighbours:
                    torch.index_select(line, 0, at, out=found[row])
        return found.T.contiguous()

    def _empty(self, span: TensorSpan, shape: Sequence[int]) -> Tensor:
        if span.dtype not in DTYPES:
            raise self._refusal(f"numbers of the kind {span.dtype}", f"numbers as {', '.join(DTYPES)}")
        return torch.empty(tuple(shape), dtype=DTYPES[span.dtype])

    def _fill(self, span: TensorSpan, first: int, into: Tensor) -> None:
        """Reads a tensor's numbers from the place `first` on into contiguous memory."""
        if into.numel() == 0:
            return
        memory = into.view(-1).view(torch.uint8).numpy().data
        try:
            self.file.seek(span.start + first * ITEM_SIZES[span.dtype])
            while memory:
                count = self.file.readinto(memory)
                if not count:
                    raise self._refusal("an early end")
                memory = memory[count:]
        except OSError as reason:
            raise self._refusal(reason.strerror or str(reason)) from reason

    def _refusal(self, found: str, expected: str = "a readable safetensors file") -> BundleError:
        return BundleError(str(self.container.path), expected=expected, found=found, remedy=DAMAGED)


def require_finite(where: str, values: Tensor) -> Tensor:
    """The values themselves, or a refusal that counts those that are not finite."""
    wrong = int(values.numel() - torch.isfinite(values).sum())
    if wrong:
        raise BundleError(
            where,
            expected="finite numbers",
            found=f"{wrong} NaN or infinite among the {values.numel()} read",
            remedy="The bundle would spoil every picture; get a sound copy or train it again.",
        )
    return values


def require_rows(where: str, values: Tensor, indices: Sequence[int]) -> Tensor:
    """The rows (S, d) themselves, or a refusal that names those that are all zero: they say nothing."""
    empty = [indices[at] for at in (~values.any(-1)).nonzero()[:, 0].tolist()]
    if empty:
        raise BundleError(
            where,
            expected="rows that are not all zero",
            found=f"only zeros for the latents {listed(map(str, empty))}",
            remedy=f"They would steer nothing. {DAMAGED}",
        )
    return values


def _require_inside(name: str, indices: Sequence[int], latents: int) -> None:
    """An index outside would read another tensor's bytes."""
    if indices and not 0 <= min(indices) <= max(indices) < latents:
        raise IndexError(f"rows of {name} are 0 to {latents - 1}, not {min(indices)} to {max(indices)}")


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Indices in their order as half-open runs of rising neighbours: 3 4 5 9 -> (3, 6) (9, 10)."""
    if not indices:
        return
    start = stop = indices[0]
    for index in indices:
        if index != stop:
            yield start, stop
            start = index
        stop = index + 1
    yield start, stop
