"""Benchmarks say which of their claims hold, and what they could not claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerdit.benchmarks import results
from steerdit.benchmarks.results import at_least, at_most, told
from steerdit.evaluation.rates import rate


def test_all_claims_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert told({"unsafe rate": at_most(rate([False] * 50), 0.05), "speed-up": at_least(2.0, 2.0, 5)})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("holds  unsafe rate  0 (0 to 0.07")
    assert second == "holds  speed-up     2, wanted >= 2, n 5"


def test_nothing_measured_is_nothing_shown() -> None:
    assert not told({})


@pytest.mark.parametrize("figure", [0.9, float("nan")])
def test_one_claim_that_fails_fails_the_benchmark(figure: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert not told({"kept": at_least(figure, 0.95), "changed": at_most(0.0, 0.1)})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILS  kept")
    assert lines[1].startswith("holds  changed")
    assert lines[2] == "1 of 2 claims do not hold."


def test_what_is_left_out_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert not told({"kept": at_least(1.0, 0.95)}, ["changed"])
    assert capsys.readouterr().out.splitlines()[1] == "left out  changed"


def test_a_trial_says_nothing_of_the_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    told({"speed-up": at_least(0.5, 2.0, 1)}, trial=True)
    assert capsys.readouterr().out.splitlines() == ["ran    speed-up  0.5, wanted >= 2, n 1"]


def test_claims_of_one_letter_are_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "OUT", tmp_path)
    assert results.read("any") == {}
    kept, lost = at_least(1.0, 0.9, 5), at_most(3.0, 1, 5)
    results.write("any", {"a.kept": kept, "e.lost": lost, "eve": kept}, seed=7, left_out=["a.x: no", "e: no"])
    before = results.read("any")
    results.amend("any", "e", {"e.new": kept}, cost=2)
    after = results.read("any")
    assert list(after["claims"]) == ["a.kept", "eve", "e.new"]
    assert after == before | {"claims": after["claims"], "left_out": ["a.x: no"], "cost": 2}


def test_claims_alone_are_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "OUT", tmp_path)
    with pytest.raises(FileNotFoundError, match="run the whole benchmark"):
        results.amend("any", "e", {"e.new": at_least(1.0, 0.9, 5)})
    assert not list(tmp_path.iterdir())
