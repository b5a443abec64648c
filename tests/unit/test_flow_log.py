"""The log of a run says what was marked in each picture in the end, and what was seen on the way."""

from __future__ import annotations

import torch

from steerdit.steering import Site
from steerdit.steering.flow.localise import around
from steerdit.steering.flow.log import FlowLog
from steerdit.steering.flow.region import Region
from steerdit.steering.flow.step import FlowRecord

SITE = Site.parse("single.1.attention")


def region(*places: tuple[int, int]) -> Region:
    core = torch.zeros(3, 4, dtype=torch.bool)
    for row, column in places:
        core[row, column] = True
    return around(core, 1)


def record(sigma: float, *regions: Region, warnings: tuple[str, ...] = ()) -> FlowRecord:
    images = tuple(range(len(regions)))
    scores = torch.full((len(regions), 1, 3, 4), 0.25)
    return FlowRecord(SITE, sigma, images, ("weapons",), torch.tensor([0.5]), scores, regions, warnings)


def test_nothing_was_looked_at() -> None:
    log = FlowLog()
    assert log.is_empty
    assert log.region(0) is None
    assert log.lines(0) == []


def test_the_last_look_of_each_restriction_holds_and_they_are_joined() -> None:
    log = FlowLog()
    log.add(0, record(1.0, region((0, 0)), region()))
    log.add(0, record(0.9, region((0, 1)), region()))
    log.add(1, record(0.9, region((0, 2)), region((2, 3))))
    first, second = log.region(0), log.region(1)
    assert first is not None
    assert second is not None
    assert first.core.nonzero().tolist() == [[0, 1], [0, 2]]
    assert not bool((first.core & first.ring).any())
    assert second.core.nonzero().tolist() == [[2, 3]]
    assert log.region(2) is None


def test_every_look_is_a_line_and_a_warning_is_said_once() -> None:
    log = FlowLog()
    for sigma in (1.0, 0.9):
        log.add(0, record(sigma, region((1, 1)), warnings=("The threshold marks the whole picture.",)))
    first, second, warning = log.lines(0)
    assert first == (
        "single.1.attention at sigma 1: weapons 0.25 of 0.5; 1 of 3 × 4 patches marked, 8 around them"
    )
    assert "at sigma 0.9" in second
    assert warning == "warning: The threshold marks the whole picture."
    given = FlowRecord(SITE, 1.0, (0,), (), torch.zeros(0), torch.zeros(1, 0, 3, 4), (region((0, 0)),))
    log.add(1, given)
    assert any("a mask was given" in line for line in log.lines(0))
