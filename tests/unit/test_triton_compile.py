"""The GPU's kernels compile for every architecture, spill nothing, fit, and need no more registers than before.

Here the largest class of each kernel; `python -m steerdit.kernels.triton.compile` compiles all.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.skipif(
        find_spec("triton") is None, reason="triton is not installed; it comes with torch for CUDA"
    ),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter has nothing to compile"
    ),
]


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120])
def test_the_largest_of_each_kernel(arch: int) -> None:
    from steerdit.kernels.triton import compile as compiler

    if not (compiler.TOOLS / "cuobjdump").exists():
        pytest.skip("this triton brings no cuobjdump")
    rows = list(compiler.compiled_all([arch], only_largest=True))
    assert rows
    assert not [fault for row in rows for fault in row.faults()]
    if compiler.recorded_by() != compiler.TRITON:
        missing = f"the table is by triton {compiler.recorded_by()}, this is {compiler.TRITON}: growth is not checked"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    assert not compiler.growth(rows)


def test_growth_is_found() -> None:
    from steerdit.kernels.triton import compile as compiler

    name, found = next(iter(compiler.table().items()))
    arch, (registers, shared) = next(iter(found.items()))
    row = compiler.Compiled(name, int(arch), registers, 0, shared, shared, 1, True)
    assert not compiler.growth([row])
    assert compiler.growth([row._replace(registers=registers + 1)])
    assert compiler.growth([row._replace(name="another")])
    assert not row.faults()
    assert len(row._replace(stack=8, shared=shared + 1, tensor_core=0).faults()) == 3


def test_the_table_holds_what_is_shipped() -> None:
    from steerdit.kernels.triton import compile as compiler

    shipped = {variant.name for arch in compiler.ARCHITECTURES for variant in compiler.variants(arch)}
    assert set(compiler.table()) == shipped
    assert all(
        set(row) == {str(arch) for arch in compiler.ARCHITECTURES} for row in compiler.table().values()
    )
