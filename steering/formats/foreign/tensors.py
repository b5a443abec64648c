"""The tensors of another project's file, read a part at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..container import Container
from ..rows import DTYPES, OpenContainer

FLOATS: Mapping[str, torch.dtype] = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}


class Tensors(Protocol):
    """Named tensors that are somewhere else until they are asked for."""

    @property
    def path(self) -> Path: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def is_float(self, name: str) -> bool:
        """Whether a tensor holds plain floating-point numbers."""
        ...

    def whole(self, name: str) -> Tensor:
        """A tensor in its own dtype."""
        ...

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        """Rows (S, ...) in the tensor's dtype."""
        ...

    def columns(self, name: str, indices: Sequence[int]) -> Tensor:
        """Columns of a matrix (d, N), as rows (S, d)."""
        ...


@dataclass(frozen=True)
class StoredTensors:
    """Of a safetensors file: only what is asked for is read."""

    container: Container

    @property
    def path(self) -> Path:
        return self.container.path

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: span.shape for name, span in self.container.tensors.items()}

    def is_float(self, name: str) -> bool:
        return self.container.tensors[name].dtype in FLOATS

    def whole(self, name: str) -> Tensor:
        with OpenContainer(self.container) as file:
            return file.whole(name)

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        with OpenContainer(self.container) as file:
            return file.rows(name, indices)

    def columns(self, name: str, indices: Sequence[int]) -> Tensor:
        with OpenContainer(self.container) as file:
            return file.columns(name, indices)


@dataclass(frozen=True)
class LoadedTensors:
    """Of a pickle, which has to be loaded to be read."""

    path: Path
    loaded: Mapping[str, Tensor]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.loaded.items()}

    def is_float(self, name: str) -> bool:
        tensor = self.loaded[name]
        return tensor.dtype in FLOATS.values() and tensor.layout == torch.strided

    def whole(self, name: str) -> Tensor:
        return self.loaded[name]

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        return self.loaded[name][list(indices)]

    def columns(self, name: str, indices: Sequence[int]) -> Tensor:
        return self.loaded[name][:, list(indices)].T
