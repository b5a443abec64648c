"""The cost benchmark's own parts, at small sizes: what it times is what it says."""

from __future__ import annotations

import pytest
import torch

from steerdit.benchmarks.uvr import cost as uvr_cost
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


def test_every_claim_is_measured() -> None:
    rows = {dtype: uvr_cost.row_of(uvr_cost.TINY, dtype) for dtype in uvr_cost.DTYPES}
    claims = uvr_cost.claims_of(rows)
    assert len(claims) == 16
    for dtype in uvr_cost.DTYPES:
        for name in ("acting", "acting_unrenormalised", "editing", "idle", "materialised.memory"):
            assert f"e.{dtype}.{name}" in claims
