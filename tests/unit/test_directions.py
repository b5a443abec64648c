"""Directions act as their equations say, and nothing changes where none does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering import FiringRecord, Site, SteeringError, Step
from steerdit.steering.direction_modifiers import AddDirection, Clamp, ProjectOut
from steerdit.steering.directions import DirectionSet, Weighting
from steerdit.steering.formats.directions import Direction

from .directions import ROWS, SITE, WIDTH, by_loops, small_directions, tokens

STEP = Step(Site("text"), sigma=0.5)
METHODS: dict[str, Any] = {"add": AddDirection, "project": ProjectOut, "clamp": Clamp}
seeds = st.integers(0, 10_000)
methods = st.sampled_from(list(METHODS))
weightings = st.sampled_from(list(Weighting))
choices = st.sampled_from(["all", "weapons", "bloody, weapons", "global"])


@given(seeds, methods, weightings, choices, st.floats(0.05, 5.0), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_equations(
    seed: int, method: str, weighting: Weighting, names: str, strength: float, norm: bool
) -> None:
    directions, x = small_directions(seed).chosen(names), tokens(seed)
    found = METHODS[method](directions, strength, weighting, norm)(x, STEP)
    expected = by_loops(directions, x, method, strength, weighting, norm)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(seeds, methods, weightings)
@settings(max_examples=30, deadline=None)
def test_strength_zero_gives_back_the_very_tensor(seed: int, method: str, weighting: Weighting) -> None:
    x = tokens(seed)
    assert METHODS[method](small_directions(seed), 0.0, weighting)(x, STEP) is x


@given(seeds, methods)
@settings(max_examples=30, deadline=None)
def test_closed_gates_give_back_the_very_tensor(seed: int, method: str) -> None:
    directions, x = closed(small_directions(seed)), tokens(seed)
    assert METHODS[method](directions, 2.0)(x, STEP) is x


@given(seeds, methods, weightings)
@settings(max_examples=30, deadline=None)
def test_no_directions_give_back_the_very_tensor(seed: int, method: str, weighting: Weighting) -> None:
    x = tokens(seed)
    assert METHODS[method](small_directions(seed).chosen("none"), 2.0, weighting)(x, STEP) is x


@given(seeds, methods, weightings, st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
@settings(max_examples=40, deadline=None)
def test_padding_stays_and_nothing_is_written_into(
    seed: int, method: str, weighting: Weighting, dtype: torch.dtype
) -> None:
    x = tokens(seed, dtype=dtype)
    before = x.clone()
    after = METHODS[method](small_directions(seed), 2.0, weighting)(x, STEP)
    assert torch.equal(x, before)
    assert after.dtype == dtype
    assert torch.equal(after[0, -1], before[0, -1])


@given(seeds, methods)
@settings(max_examples=30, deadline=None)
def test_a_row_with_closed_gates_keeps_its_bits_beside_one_with_open_ones(seed: int, method: str) -> None:
    directions = small_directions(seed).only(("weapons",))
    benign = directions.mean.double() - directions.unsafe.double() * torch.tensor([[0.5], [1.0], [2.0]])
    unsafe = benign.clone()
    unsafe[1] = directions.mean.double() + 3 * directions.unsafe[0].double()
    x = torch.stack([benign, unsafe])
    after = METHODS[method](directions, 1.0)(x, STEP)
    assert torch.equal(after[0], x[0])
    assert not torch.equal(after[1], x[1])


@given(seeds, st.floats(0.1, 5.0))
@settings(max_examples=30, deadline=None)
def test_the_norm_is_kept(seed: int, strength: float) -> None:
    x = tokens(seed)
    after = ProjectOut(small_directions(seed), strength, Weighting.UNIFORM)(x, STEP)
    assert torch.allclose(after.norm(dim=-1), x.norm(dim=-1), rtol=1e-6)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_projecting_out_once_leaves_nothing_that_points_to_the_unsafe(seed: int) -> None:
    directions, x = small_directions(seed).only(("weapons",)), tokens(seed)
    unsafe = directions.unsafe[0].double()
    after = ProjectOut(directions, 1.0, Weighting.UNIFORM)(x, STEP)
    assert float((after @ unsafe).max()) < 1e-6
    safe = (x @ unsafe) <= 0
    assert torch.equal(after[safe], x[safe])


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_clamping_leaves_what_benign_tokens_show(seed: int) -> None:
    directions, x = small_directions(seed).only(("weapons",)), tokens(seed)
    after = Clamp(directions, 1.0, keep_norm=False)(x, STEP)
    beyond = directions.scores(x)[..., 0] > 0.3
    assert torch.equal(after[~beyond], x[~beyond])
    away = (x - directions.mean)[beyond]
    projections = (after - directions.mean)[beyond] @ directions.unsafe[0].double()
    assert torch.allclose(projections, 0.3 * away.norm(dim=-1), atol=1e-5)


def test_several_rows_are_gated_each_for_itself_and_seen_each_for_itself() -> None:
    directions, x = small_directions(3), tokens(3)
    seen: list[FiringRecord] = []
    step = Step(Site("text"), 0.5, images=(0, 1), observe=seen.append)
    together = ProjectOut(directions, 1.0)(x, step)
    apart = [ProjectOut(directions, 1.0)(row[None], STEP) for row in x]
    assert torch.allclose(together, torch.cat(apart), atol=1e-12)
    (record,) = seen
    assert record.categories == ("weapons", "bloody", "global")
    assert torch.equal(record.reading.scores, directions.scores(x))
    assert torch.equal(record.reading.open, record.reading.scores > torch.tensor([0.3, 0.45, 0.25]))


def test_scores_are_cosines_from_the_benign_mean() -> None:
    directions = small_directions(1)
    unsafe = directions.mean - 2 * directions.vectors[1]
    scores = directions.scores(torch.stack([unsafe, directions.mean + directions.vectors[1]])[None])
    assert scores[0, :, 1].tolist() == pytest.approx([1.0, -1.0], abs=1e-6)
    assert directions.scores(torch.zeros(1, 1, WIDTH)).tolist() == [[[-1.0] * 3]]


def test_categories_are_chosen_by_name_and_the_global_direction_by_its_own() -> None:
    directions = small_directions()
    assert directions.chosen("all").names == ("weapons", "bloody")
    assert directions.chosen("-weapons").names == ("bloody",)
    chosen = directions.chosen(" Global ")
    assert chosen.names == ("global",)
    assert torch.equal(chosen.vectors, directions.vectors[2:])
    assert chosen.chosen("all").names == ("global",)
    with pytest.raises(SteeringError, match="weapons, bloody"):
        directions.chosen("alcohol")
    with pytest.raises(SteeringError, match="categories"):
        directions.only(("weapons",)).chosen("global")


def test_a_gate_needs_thresholds() -> None:
    about = dataclasses.replace(SITE, directions=(ROWS[0], Direction("new")))
    directions = small_directions(about=about)
    for make in (lambda: ProjectOut(directions), lambda: Clamp(directions, weighting=Weighting.UNIFORM)):
        with pytest.raises(SteeringError, match="none for new"):
            make()
    ProjectOut(directions, weighting=Weighting.UNIFORM)
    ProjectOut(directions.only(("weapons",)))


@pytest.mark.parametrize(
    ("vectors", "mean", "message"),
    [
        (torch.ones(3, 7), torch.ones(8), r"3 directions \(3, 8\)"),
        (torch.ones(2, 8), torch.ones(8), r"3 directions \(3, 8\)"),
        (torch.ones(3, 8), torch.ones(7), r"3 directions \(3, 8\)"),
        (torch.ones(3, 8), torch.full((8,), math.nan), "finite numbers"),
        (torch.ones(3, 8).index_fill(0, torch.tensor([1]), 0.0), torch.ones(8), "zeros for bloody"),
    ],
)
def test_numbers_that_are_no_directions(vectors: torch.Tensor, mean: torch.Tensor, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        DirectionSet(SITE, vectors, mean)


@pytest.mark.parametrize("method", METHODS)
def test_strengths_and_numbers_that_cannot_be(method: str) -> None:
    directions = small_directions()
    for strength in (math.nan, math.inf, *([] if method == "add" else [-1.0])):
        with pytest.raises(SteeringError, match="strength: expected a finite number"):
            METHODS[method](directions, strength)
    x = tokens(1)
    x[1, 2, 3] = math.nan
    step = Step(Site.parse("double.3.text"), 0.25)
    with pytest.raises(SteeringError, match=r"double\.3\.text at sigma 0\.25: expected finite activations"):
        METHODS[method](directions, 0.0)(x, step)


def test_a_change_that_the_dtype_cannot_hold_is_refused() -> None:
    x = tokens(1, dtype=torch.float16)
    with pytest.raises(SteeringError, match=r"text: .*float16.*overflow.*strength 1e\+06"):
        AddDirection(small_directions(), 1e6, Weighting.UNIFORM)(x, Step(Site("text"), math.inf))


def closed(directions: DirectionSet) -> DirectionSet:
    """The same with thresholds that no score passes."""
    rows = tuple(dataclasses.replace(one, threshold=1.0) for one in directions.about.directions)
    return dataclasses.replace(directions, about=dataclasses.replace(directions.about, directions=rows))
