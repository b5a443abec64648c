"""The kernel benchmark's parts that need no quiet machine."""

from __future__ import annotations

import pytest
import torch

from steerdit.benchmarks.kernels import process, tables
from steerdit.benchmarks.kernels.__main__ import main
from steerdit.benchmarks.kernels.random_calls import fault
from steerdit.kernels import reference


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_measurement_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "needs an NVIDIA GPU of compute capability 8.0 or later" in said
    assert "Without one, `nox -s bench -- kernels` runs." in said


def test_random_calls_find_what_is_wrong() -> None:
    class OffByOne:
        def __getattr__(self, name: str) -> object:
            return getattr(reference, name)

        def encode_topk(self, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
            values, indices = reference.encode_topk(*arguments)  # type: ignore[arg-type]
            return values, indices + 1

    wrong = list(filter(None, (fault(OffByOne(), number) for number in range(200))))
    assert wrong
    assert all("encode_topk" in said and "second result differs" in said for said in wrong)
    assert not any(fault(reference, number) for number in range(200))


def test_a_process_that_ends_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    count, faults = process.faults_of("steerdit.benchmarks.kernels.random_calls", "cpu", "5")
    assert (count, faults) == (5, [])
    with pytest.raises(RuntimeError, match="ended before its last call"):
        process.faults_of("steerdit.benchmarks.kernels.random_calls", "cpu", "many")


def test_the_tables_of_compiled_kernels() -> None:
    cell = {"kernel": "steer", "arch": 80, "variants": 3, "registers": 9, "stack": 0, "shared": 7, "limit": 8}
    line = {"kernel": "steer", "shape": "T=1", "over_minimum": 1.0, "microseconds": 2.0}
    rows = {
        "compiled": [cell, {**cell, "arch": 90, "registers": 10}],
        "rooflines": [{**line, "gpu": "H100 SXM"}, {**line, "gpu": "RTX 4090", "microseconds": 6.5}],
    }
    found = {"rows": {"d": rows}}
    assert tables.compiled(found)[0] == "| kernel | sm_80 | sm_90 |"
    assert tables.compiled(found)[-1] == "| steer (3) | 9, 7 | 10, 7 |"
    assert tables.rooflines(found)[-1] == "| steer | T=1 | 1.000 | 2 | 6.5 |"
