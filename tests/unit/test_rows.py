"""Rows and columns of a stored tensor are those of the tensor, in little memory, from the file that was opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from steerdit.steering.errors import BundleError
from steerdit.steering.formats.container import read_container
from steerdit.steering.formats.rows import DTYPES, OpenContainer


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(st.integers(0, 11), max_size=16),
    st.integers(0, 2**31),
)
def test_rows_and_columns_are_those_of_the_tensor(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    height: int,
    width: int,
    chosen: list[int],
    seed: int,
) -> None:
    numbers = torch.randint(0, 2, (height, width), generator=torch.Generator().manual_seed(seed))
    stored = {
        "a": torch.ones(3),
        "m": numbers.to(DTYPES[dtype]),
        "scalar": torch.tensor(7),
        "z": torch.ones(5),
    }
    path = tmp_path_factory.mktemp("rows") / "any.safetensors"
    save_file(stored, path)
    rows, columns = [i % height for i in chosen], [i % width for i in chosen]
    with OpenContainer(read_container(path)) as file:
        assert torch.equal(file.whole("m"), stored["m"])
        assert torch.equal(file.whole("scalar"), stored["scalar"])
        assert torch.equal(file.rows("m", rows), stored["m"][rows])
        assert torch.equal(file.columns("m", columns), stored["m"].T[columns])
        assert file.whole("m").dtype == file.rows("m", rows).dtype == DTYPES[dtype]


@pytest.mark.parametrize("indices", [[-1], [4], [0, 4]])
def test_what_lies_beyond_a_tensor_is_not_read(tmp_path: Path, indices: list[int]) -> None:
    save_file({"m": torch.zeros(4, 4), "z": torch.ones(4, 4)}, tmp_path / "s.safetensors")
    with OpenContainer(read_container(tmp_path / "s.safetensors")) as file:
        for read in (file.rows, file.columns):
            with pytest.raises(IndexError, match="m are 0 to 3"):
                read("m", indices)


@pytest.mark.parametrize("change", ["cut", "touched"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "s.safetensors"
    save_file({"m": torch.zeros(400, 400)}, path)

    def read() -> None:
        with OpenContainer(read_container(path)) as file:
            file.rows("m", [0])
            if change == "cut":
                os.truncate(path, 1000)
                file.rows("m", [399])
            else:
                os.utime(path, ns=(1, 1))

    with pytest.raises(BundleError, match=r"s\.safetensors: expected"):
        read()


def test_numbers_of_a_kind_that_is_not_read_are_refused(tmp_path: Path) -> None:
    save_file({"m": torch.zeros(2, 2, dtype=torch.float8_e4m3fn)}, tmp_path / "s.safetensors")
    with (
        pytest.raises(BundleError, match=r"expected numbers as F64, .*found numbers of the kind F8_E4M3"),
        OpenContainer(read_container(tmp_path / "s.safetensors")) as file,
    ):
        file.whole("m")


@pytest.mark.parametrize(("read", "shape"), [("rows", (65_536, 512)), ("columns", (512, 65_536))])
def test_a_few_cost_little_memory(tmp_path: Path, read: str, shape: tuple[int, int]) -> None:
    """In a process of its own: peak memory of 9 of 65,536 rows or columns of a 67 MB tensor."""
    save_file({"m": torch.ones(shape, dtype=torch.float16)}, tmp_path / "large.safetensors")
    program = """
import resource, sys, torch
from steerdit.steering.formats.container import read_container
from steerdit.steering.formats.rows import OpenContainer
container = read_container(sys.argv[1])
torch.ones(4, 4).half().T.contiguous().index_select(1, torch.tensor([0])).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with OpenContainer(container) as file:
    found = getattr(file, sys.argv[2])("m", [*range(0, 65536, 8192), 65535])
assert found.shape == (9, 512) and bool((found == 1).all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "large.safetensors"), read]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 5_000  # kilobytes
