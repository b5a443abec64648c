"""Which path runs can be read and forced; a forced path that cannot run is an error, never another path."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from steerdit import kernels

X, ROWS, BIAS = torch.ones(2, 4), torch.ones(6, 4), torch.ones(6)


@pytest.fixture(autouse=True)
def _unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEERDIT_KERNELS", raising=False)


def test_the_choice_says_why() -> None:
    assert kernels.explain("encode_topk", "cpu", torch.float32, latents=24576, k=32) == (
        "encode_topk on cpu in float32 (latents=24576, k=32): cpu, because the tensors are on the CPU"
    )
    assert kernels.explain("decode", "mps", torch.float16) == (
        "decode on mps in float16: reference, because no other path is written for mps"
    )


def test_an_unknown_kernel_has_no_choice() -> None:
    with pytest.raises(ValueError, match="there is no kernel 'encode'"):
        kernels.explain("encode", "cpu", torch.float32)


@pytest.mark.parametrize("path", ["reference", "cpu"])
def test_a_path_can_be_forced(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", path)
    assert f": {path}, because STEERDIT_KERNELS says so" in kernels.explain("decode", "cpu", torch.float32)
    kernels.encode_topk(X, ROWS, BIAS, 2)


def test_a_forced_path_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", "cpu")
    with pytest.raises(
        RuntimeError, match=r"STEERDIT_KERNELS=cpu cannot run decode: the tensors are on cuda"
    ):
        kernels.explain("decode", "cuda", torch.float32)
    monkeypatch.setenv("STEERDIT_KERNELS", "fast")
    with pytest.raises(RuntimeError, match="must be one of reference, cpu, triton or empty, not 'fast'"):
        kernels.encode_topk(X, ROWS, BIAS, 2)


def test_triton_is_not_imported_for_tensors_on_the_cpu() -> None:
    program = (
        "import sys, torch; from steerdit import kernels;"
        "kernels.encode_topk(torch.ones(2, 4), torch.ones(6, 4), torch.ones(6), 2);"
        "assert 'steerdit.kernels.triton' not in sys.modules;"
        "assert 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_without_triton_a_cuda_tensor_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("steerdit.kernels.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    line = kernels.explain("encode_topk", "cuda", torch.float32)
    assert ": reference, because triton cannot take it: it cannot be imported" in line
    monkeypatch.setenv("STEERDIT_KERNELS", "triton")
    with pytest.raises(RuntimeError, match="STEERDIT_KERNELS=triton cannot run encode_topk"):
        kernels.explain("encode_topk", "cuda", torch.float32)
