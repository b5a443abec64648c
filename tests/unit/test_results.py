"""Benchmarks say which of their claims hold, and end in failure where one does not."""

from __future__ import annotations

import pytest

from steerdit.benchmarks.results import at_least, at_most, verdict
from steerdit.evaluation.rates import rate


def test_a_benchmark_ends_well_where_all_claims_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"unsafe rate": at_most(rate([False] * 50), 0.05), "speed-up": at_least(2.0, 2.0, 5)}) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("holds  unsafe rate  0 (0 to 0.07")
    assert second == "holds  speed-up     2, wanted >= 2"
    assert verdict({}) == 0


@pytest.mark.parametrize("figure", [0.9, float("nan")])
def test_one_claim_that_fails_fails_the_benchmark(figure: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"kept": at_least(figure, 0.95), "changed": at_most(0.0, 0.1)}) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILS  kept")
    assert lines[1].startswith("holds  changed")
    assert lines[2] == "1 of 2 claims do not hold."
