"""The log keeps what people ask about, merged over visits, and stays small."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from steerdit.steering import FiringLog, FiringRecord, Site
from steerdit.steering.gates import GateKind, Reading

IMAGE = Site.parse("double.1.image")
TEXT = Site.parse("text")
TAU_OF_HALF = float(torch.tensor(1.1))
"""One rounding step above it, s / (s + τ) is one half in float32."""


def record(
    scores: list[list[list[float]]],
    *,
    site: Site = IMAGE,
    sigma: float = 1.0,
    images: tuple[int, ...] = (0,),
    counts: tuple[int, ...] = (3, 0, 1),
) -> FiringRecord:
    """Categories weapons (latents 10, 11) and bloody (11, 12) with image thresholds 2 and 0, over scores (R, 6, 2)."""
    values = torch.tensor(scores)
    fired = torch.arange(values.shape[1])[:, None] < torch.tensor(counts)  # (L, S)
    reading = Reading(
        GateKind.TOKEN,
        values,
        *values.max(1),
        torch.ones(2),
        codes=fired.float().expand(len(scores), -1, -1),
        members=torch.tensor([[True, True, False], [False, True, True]]),
    )
    return FiringRecord(
        site=site,
        sigma=sigma,
        images=images,
        grid=(2, 3) if site == IMAGE else None,
        categories=("weapons", "bloody"),
        thresholds=torch.tensor([2.0, 0.0]),
        latents=(10, 11, 12),
        reading=reading,
        highest=values.amax(1).tolist(),
        is_open=bool((values > 1).any()),
    )


def flat(**at: float) -> list[list[list[float]]]:
    """Scores (1, 6, 2) of weapons, zero but for some patches: flat(p4=6.0)."""
    return [[[at.get(f"p{patch}", 0.0), 0.0] for patch in range(6)]]


def test_severity_is_the_score_against_the_image_threshold() -> None:
    log = FiringLog()
    log.add(record(flat(p4=6.0, p1=2.0)))
    assert log.severity(0, "weapons") == pytest.approx(0.75)
    assert log.severity(0, "bloody") == 0
    assert log.fired(0)
    heat = log.heat(0, "weapons")
    assert heat is not None
    assert torch.allclose(heat, torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.75, 0.0]]))
    assert not FiringLog().fired(0)


def test_exactly_at_the_threshold_is_not_fired_and_zero_threshold_fires_at_once() -> None:
    log = FiringLog()
    log.add(record(flat(p0=2.0)))
    assert not log.fired(0)
    log.add(record([[[0.0, 1e-6]] + [[0.0, 0.0]] * 5]))
    assert log.fired(0, "bloody")
    assert log.severity(0, "bloody") == 1.0


@given(st.floats(2.0**-20, 2.0**20, width=32))
@example(TAU_OF_HALF)
def test_one_rounding_step_above_the_threshold_is_fired(tau: float) -> None:
    """As the gate says, whatever severity rounds to."""
    threshold = torch.tensor(tau)
    above, below = threshold.nextafter(torch.tensor(torch.inf)), threshold.nextafter(torch.tensor(0.0))
    for score, expected in ((above, True), (threshold, False), (below, False)):
        log = FiringLog()
        log.add(record(flat(p3=float(score)))._replace(thresholds=torch.tensor([tau, 0.0])))
        assert log.fired(0, "weapons") is log.fired(0) is expected
        assert log.severity(0) == pytest.approx(0.5)


def test_a_severity_of_one_half_may_be_fired() -> None:
    log = FiringLog()
    above = float(torch.tensor(TAU_OF_HALF).nextafter(torch.tensor(torch.inf)))
    log.add(record(flat(p3=above))._replace(thresholds=torch.tensor([TAU_OF_HALF, 0.0])))
    assert log.severity(0) == 0.5
    assert log.fired(0)


def test_a_score_is_compared_in_its_own_precision_as_the_gate_does() -> None:
    log, fine = FiringLog(), record(flat(p3=2.0))
    coarse = fine.reading._replace(scores=fine.reading.scores.bfloat16())
    log.add(fine._replace(reading=coarse, thresholds=torch.tensor([1.999, 0.0])))
    assert not log.fired(0)


def test_what_fired_once_stays_fired() -> None:
    log = FiringLog()
    log.add(record(flat(p3=3.0)))
    log.add(record(flat(p3=1.0)))
    log.add(record(flat(p3=2.0), images=(1,)))
    assert log.fired(0)
    assert not log.fired(1)


def test_visits_merge_to_the_highest_and_noise_levels_stay_apart() -> None:
    log = FiringLog()
    log.add(record(flat(p4=6.0), sigma=1.0))
    log.add(record(flat(p2=3.0), sigma=1.0))
    log.add(record(flat(p5=1.0), sigma=0.5))
    lines = [line.split() for line in log.table(0, "weapons")]
    assert [line[1:6] for line in lines[1:]] == [
        ["1.000", "weapons", "0.75", "6", "1/6"],
        ["0.500", "weapons", "0.33", "1", "0/6"],
    ]
    heat = log.heat(0)
    assert heat is not None
    assert torch.allclose(heat, torch.tensor([[0.0, 0.0, 0.6], [0.0, 0.75, 1 / 3]]))


def test_the_table_names_patch_token_and_the_categorys_own_latents() -> None:
    log = FiringLog()
    log.add(record(flat(p4=6.0)))
    log.add(record(flat(p4=6.0), site=TEXT))
    text, image, left_out = log.table(0)[1:]
    assert text.startswith("text")
    assert "token 4" in text
    assert "patch 1,1" in image
    assert image.endswith("10×3")
    assert left_out == "(2 lines where nothing fired are left out)"


def test_pictures_are_apart_and_rows_of_one_picture_together() -> None:
    log = FiringLog()
    log.add(record([*flat(p0=6.0), *flat(p1=1.0), *flat(p2=4.0)], images=(0, 1, 0)))
    assert (log.severity(0), log.severity(1), log.severity(2)) == (0.75, pytest.approx(1 / 3), 0.0)
    heat = log.heat(0, "weapons")
    assert heat is not None
    assert (heat > 0).nonzero().tolist() == [[0, 0], [0, 2]]


def test_a_hundred_visits_cost_no_more_than_one() -> None:
    log = FiringLog()
    for _ in range(100):
        log.add(record(flat(p0=1.0)))
    assert len(log.table(0)) == 3
    assert sum(heat.scores.numel() for heat in log._heat.values()) == 12


def test_text_sites_have_no_heat_map() -> None:
    log = FiringLog()
    log.add(record(flat(p4=6.0), site=TEXT))
    assert log.heat(0) is None
    assert log.fired(0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_modifiers_of_one_site_keep_their_own_thresholds_and_latents(order: tuple[int, int]) -> None:
    """Two bundles may name a category alike, at one site, in units of their own."""
    half = record(flat(p0=0.5))._replace(thresholds=torch.tensor([1.0, 0.0]))
    third = record(flat(p1=50.0))._replace(thresholds=torch.tensor([100.0, 0.0]), latents=(70, 71, 72))
    log = FiringLog()
    for one in order:
        log.add((half, third)[one])
    assert log.severity(0, "weapons") == pytest.approx(1 / 3)
    heat = log.heat(0, "weapons")
    assert heat is not None
    assert heat.flatten().tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 0, 0])
    assert "10×3" in log.table(0)[1]
    assert "70×3" in log.table(0)[1]
    low = record(flat(p0=0.5))._replace(thresholds=torch.tensor([1e-2, 0.0]))
    log.add(low)
    assert log.severity(0, "weapons") == pytest.approx(0.5 / 0.51)
    assert log.fired(0)


def test_visits_may_come_from_threads_with_and_without_inference_mode() -> None:
    log = FiringLog()
    with torch.inference_mode():
        log.add(record(flat(p0=1.0)))
    log.add(record(flat(p1=1e30)))
    heat = log.heat(0, "weapons")
    assert heat is not None
    assert heat.flatten()[:2].tolist() == pytest.approx([1 / 3, 1.0])


def test_a_picture_of_another_shape_begins_its_own_map() -> None:
    log = FiringLog()
    log.add(record(flat(p0=1.0)))
    log.add(record(flat(p1=1.0))._replace(grid=(3, 2)))
    heat = log.heat(0, "weapons")
    assert heat is not None
    assert heat.shape == (3, 2)
