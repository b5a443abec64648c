"""Some rows of a tensor in a safetensors file, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import safetensors
import torch
from torch import Tensor

from ..errors import BundleError
from .container import Container
from .fields import DAMAGED


class Reading:
    """An open safetensors file whose own complaints become ours."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def __enter__(self) -> Any:
        self.container.unchanged()  # reading a file that was cut since would end the process, not raise
        try:
            self.file = cast(
                "Any", safetensors.safe_open(str(self.container.path), framework="pt", device="cpu")
            )
            return self.file.__enter__()
        except (safetensors.SafetensorError, OSError) as reason:
            raise self._refusal(reason) from reason

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.file.__exit__(kind, error, traceback)
        if isinstance(error, (safetensors.SafetensorError, OSError)):
            raise self._refusal(error) from error

    def _refusal(self, reason: Exception) -> BundleError:
        return BundleError(
            str(self.container.path),
            expected="a readable safetensors file",
            found=str(reason),
            remedy=DAMAGED,
        )


def rows_of(file: Any, name: str, indices: Sequence[int]) -> Tensor:
    """Rows (S, ...) of a stored tensor in its own dtype, each run of neighbouring rows read at once."""
    stored = file.get_slice(name)
    return _gathered(indices, 0, lambda start, stop: stored[start:stop])


def columns_of(file: Any, name: str, indices: Sequence[int]) -> Tensor:
    """Columns of a stored matrix (d, N), as rows (S, d)."""
    stored = file.get_slice(name)
    return _gathered(indices, 1, lambda start, stop: stored[:, start:stop]).T.contiguous()


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


def _gathered(indices: Sequence[int], dim: int, read: Any) -> Tensor:
    if not indices:
        return read(0, 0)
    rising = sorted(indices)
    found = torch.cat([read(start, stop) for start, stop in _runs(rising)], dim)
    if list(indices) == rising:
        return found
    place = {index: position for position, index in enumerate(rising)}
    return found.index_select(dim, torch.tensor([place[index] for index in indices]))


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rising indices as half-open runs of neighbours: 3 4 5 9 -> (3, 6) (9, 10)."""
    start = stop = indices[0]
    for index in indices:
        if index > stop:
            yield start, stop
            start = index
        stop = index + 1
    yield start, stop
