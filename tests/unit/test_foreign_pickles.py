"""Pickles: tensors, numbers and text come out; anything that could run code stays in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.steering.errors import BundleError
from steerdit.steering.formats.foreign.pickles import load_pickle


class Evil:
    """A pickle of it would run code, which leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_pickles_that_are_more_than_tensors_are_refused(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "was-here"
    torch.save({"W_enc": torch.zeros(2), "more": Evil(mark)}, path)
    with pytest.raises(BundleError, match="expected a checkpoint of tensors, numbers and text alone"):
        load_pickle(path)
    assert not mark.exists()
    torch.save([torch.zeros(2)], path)
    with pytest.raises(BundleError, match="expected tensors by name, found list"):
        load_pickle(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04" + bytes(50), b"not a pickle"):
        path.write_bytes(content)
        with pytest.raises(BundleError) as refusal:
            load_pickle(path)
        assert refusal.value.remedy
    with pytest.raises(BundleError, match="expected a whole PyTorch checkpoint"):
        load_pickle(tmp_path / "nowhere.pt")
