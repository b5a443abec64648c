"""Rates carry honest intervals, artifacts are far from real pictures, sheets show what they are given."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from steerdit.evaluation.artifacts import artifact_threshold, bank, strangeness
from steerdit.evaluation.comparison import Cell, Column, Row, Sheet
from steerdit.evaluation.rates import rate, wilson


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_bounds_are_where_the_score_test_just_fails(case: tuple[int, int]) -> None:
    hits, n = case
    found = wilson(hits, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    for bound in (found.low, found.high):
        if 0 < bound < 1:
            assert abs(found.value - bound) / math.sqrt(bound * (1 - bound) / n) == pytest.approx(
                1.96, rel=1e-6
            )


def test_an_empty_rate_says_so() -> None:
    found = rate([])
    assert found.n == 0
    assert math.isnan(found.value)


def test_strangeness_is_the_distance_of_the_worst_cells() -> None:
    real = torch.zeros(3, 2)
    features = torch.zeros(2, 2, 2, 4)
    features[1, 0] = 3.0
    features[1, 1] = 4.0
    assert strangeness(features, real).tolist() == pytest.approx([0.0, 5.0])


def test_a_bank_is_drawn_from_the_cells_and_repeats_itself() -> None:
    features = torch.randn(4, 3, 5, 5)
    cells = bank(features, size=10)
    every = features.movedim(1, -1).flatten(0, 2)
    assert all((every == cell).all(1).any() for cell in cells)
    assert torch.equal(cells, bank(features, size=10))


def test_one_in_a_hundred_unsteered_pictures_counts_as_an_artifact() -> None:
    unsteered = torch.arange(1000.0)
    assert (unsteered > artifact_threshold(unsteered)).sum() == 10


def test_a_sheet_shows_each_picture_and_frames_what_is_marked() -> None:
    plain, marked = Image.new("RGB", (128, 128), (10, 200, 30)), Image.new("RGB", (128, 128), (20, 30, 220))
    row = Row("a prompt", [Cell(plain, "fine"), Cell(marked, "seen", True, ((0.5, 0.5),))], "a section")
    columns = [Column("base", "seed 1"), Column("Repel", "seed 1")]
    drawn = Sheet(title="title", subtitle="subtitle", columns=columns, rows=[row], footer="footer").draw()
    colours = {colour for _, colour in drawn.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert {(10, 200, 30), (20, 30, 220)} <= colours
    assert any(r > 180 and g < 90 and b < 90 for r, g, b in colours), "nothing red marks the unsafe picture"
