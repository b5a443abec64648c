"""Pickles of tensors, for the offline command alone: torch's restricted reader runs no code, and no node comes here."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...errors import BundleError
from ..fields import shown
from .tensors import LoadedTensors

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def load_pickle(path: Path) -> tuple[LoadedTensors, dict[str, object]]:
    """The tensors of a checkpoint and what it holds beside them.

    Raises:
        BundleError: it holds anything that is not tensors, numbers, text, lists and dicts.
    """
    try:
        content: Any = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
        )
    except pickle.UnpicklingError as reason:
        first = str(reason).split("\n", 1)[0]
        raise BundleError(
            str(path),
            expected="a checkpoint of tensors, numbers and text alone",
            found=f"Python objects, which can run code, or a damaged file ({first[:200]})",
            remedy="It is not opened in any other way. Ask its author for a safetensors file.",
        ) from reason
    except Exception as reason:  # whatever a damaged archive makes of torch's reader
        raise BundleError(
            str(path),
            expected="a whole PyTorch checkpoint",
            found=f"{type(reason).__name__}: {str(reason)[:200]}",
            remedy="Download it again.",
        ) from reason
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = cast("Mapping[str, Any]", content["state_dict"])
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise BundleError(
            str(path),
            expected="tensors by name",
            found=type(content).__name__,
            remedy="Choose the autoencoder's state dict.",
        )
    named = cast("Mapping[str, Any]", content)
    tensors = {name: value.detach() for name, value in named.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _require_stored(path, name, tensor)
    extras = {name: _plain(value) for name, value in named.items() if not isinstance(value, Tensor)}
    return LoadedTensors(path, tensors), extras


def _require_stored(path: Path, name: str, tensor: Tensor) -> None:
    """Refuses a tensor whose numbers are not all in the file: one without any, or a view that repeats few."""
    if tensor.layout != torch.strided:
        return  # told by whoever asks for it
    held = 0 if tensor.is_meta else tensor.untyped_storage().nbytes()
    if tensor.is_meta or tensor.numel() * tensor.element_size() > held:
        raise BundleError(
            f"{path}: {shown(name)}",
            expected=f"{tensor.numel()} stored numbers, as its shape says",
            found="none (a meta tensor)" if tensor.is_meta else f"{held // tensor.element_size()}",
            remedy="Save it again with its values, as tensor.contiguous().",
        )


def _plain(value: Any) -> object:
    """A value with tensors of one number as that number, as a configuration would have it."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else None
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in cast("Mapping[Any, Any]", value).items()}
    return value
