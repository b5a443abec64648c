"""The UVR benchmark's report, drawn where nothing of it was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerdit.benchmarks import results
from steerdit.benchmarks.store import Budget, Store
from steerdit.benchmarks.uvr.run import run
from steerdit.benchmarks.uvr.settings import NAME, Sizes


def test_an_empty_work_folder_leaves_the_report_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = (results.OUT / f"{NAME}.json").read_bytes()
    monkeypatch.setattr(results, "OUT", tmp_path)
    (tmp_path / f"{NAME}.json").write_bytes(report)
    assert run(Store(tmp_path / "work", Budget(None)), Sizes(), stages=(), host="any") == 1
    assert (tmp_path / f"{NAME}.json").read_bytes() == report
    assert "left out  a: " in capsys.readouterr().out
