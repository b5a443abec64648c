"""The cost benchmark's own parts, at small sizes: what it times is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.benchmarks import processor, results
from steerdit.benchmarks.uvr import cost as uvr_cost
from steerdit.benchmarks.uvr import tables
from steerdit.steering.flow.groups import Flow


@pytest.fixture
def case() -> uvr_cost.Case:
    return uvr_cost.Case.drawn(uvr_cost.TINY, torch.float32)


@pytest.fixture
def edited() -> uvr_cost.Case:
    return uvr_cost.Case.drawn(uvr_cost.TINY, torch.float32, editing=True)


def test_all_columns_make_what_they_are_named_for(case: uvr_cost.Case, edited: uvr_cost.Case) -> None:
    runs = uvr_cost.columns(case, edited)
    plain = runs["plain"]()
    assert torch.equal(runs["idle"](), plain)
    whole = runs["materialised"]()
    assert not torch.allclose(whole, plain, atol=1e-3)
    for name in ("acting", "acting_dimensions", "finding"):
        torch.testing.assert_close(runs[name](), whole, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(runs["acting_unrenormalised"](), whole, atol=1e-3)
    assert not torch.allclose(runs["acting_noise"](), whole, atol=1e-3)
    assert uvr_cost.agreement(edited, runs["editing"], Flow.REFERENCE) < 1e-5
    assert edited.layout.tokens == case.layout.tokens


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return uvr_cost.measured(uvr_cost.TINY)


def test_every_claim_is_measured(measured: dict[str, Any]) -> None:
    claims = uvr_cost.claims_of(measured)
    assert len(claims) == 16
    for dtype in uvr_cost.DTYPES:
        for name in ("acting", "acting_unrenormalised", "editing", "idle", "materialised.memory"):
            assert f"e.{processor.kind()}.{dtype}.{name}" in claims


def test_a_report_keeps_one_measurement_for_each_kind_of_processor(
    measured: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("steerdit.benchmarks.results.OUT", tmp_path)
    monkeypatch.setattr(uvr_cost, "Sizes", lambda: uvr_cost.TINY)
    assert uvr_cost.update("uvr") == 1
    assert "no report" in capsys.readouterr().out
    (own,) = measured
    other = measured[own] | {"processor": "unrecorded"}
    results.write(
        "uvr",
        {"e.gone": results.at_least(1, 1, 1)},
        cost={
            "another": other,
            own: other,
            "stale": other | {"stamp": "of other code"},
            "older": {"rows": {}},
        },
    )
    uvr_cost.update("uvr")
    report = results.read("uvr")
    assert set(report["cost"]) == {"another", own}
    assert report["cost"]["another"] == json.loads(json.dumps(other))
    assert report["cost"][own]["processor"] == processor.name()
    told = {name.split(".")[1] for name in report["claims"]}
    assert told == {"another", own}
    assert len(report["claims"]) == 32
    assert "another (unrecorded):" in tables.cost(report)
    assert torch.is_grad_enabled()
