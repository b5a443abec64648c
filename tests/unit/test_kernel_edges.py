"""What the benchmark of the edges checks is right, and the benchmark would see it if it were not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from steerdit import kernels
from steerdit.benchmarks.kernels import edge_files, edges


@pytest.mark.parametrize("path", ["reference", "cpu"])
def test_calls_at_the_edge(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", path)
    assert not [said for case in edges.cases(path) if (said := edges.said(case))]


def test_files_at_the_edge() -> None:
    assert not [said for case in edge_files.cases() if (said := edges.said(case))]


def test_a_path_that_takes_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(x: Tensor, rows: Tensor, bias: Tensor, k: int) -> tuple[Any, ...]:
        return torch.addmm(bias.to(x), x, rows.to(x).T).topk(min(max(k, 0), len(rows)))

    monkeypatch.setattr(kernels, "encode_topk", careless)
    wrong = [case for case in edges.cases("cpu") if edges.said(case)]
    assert {case.name.split()[0] for case in wrong} == {"encode_topk"}
    groups = Counter(case.group for case in wrong)
    assert groups.keys() == {"k", "not_finite", "mixed_dtypes"}
    assert groups["k"] == 3 * len(edges.DTYPES)
