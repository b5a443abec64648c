"""A run knows which rows to steer, and refuses to end with a site that it never saw."""

from __future__ import annotations

import pytest
import torch

from steerdit.host.run import RUNS_KEPT, Run, file_log, find_logs, forget_logs
from steerdit.steering import FiringLog, Site, SteeringError

A, B = Site.parse("double.0.image"), Site.parse("double.1.image")


@pytest.mark.parametrize(
    ("numbers", "expected"), [([0], [0]), ([1], []), ([1, 0], [1]), ([0, 1, 0], [0, 2]), ([], [])]
)
def test_rows_by_number(numbers: list[int], expected: list[int]) -> None:
    assert Run().steered_chunks({"cond_or_uncond": numbers}) == expected


def test_rows_by_conditioning_where_the_host_tells() -> None:
    dual = {"cond_or_uncond": [2, 1, 0], "uuids": ["positive", "middle", "negative"]}
    assert Run(lambda: {"negative"}).steered_chunks(dual) == [0, 1]
    assert Run(lambda: None).steered_chunks(dual) == [2]


def test_a_call_without_the_hosts_numbers_is_steered() -> None:
    assert Run().steered_chunks({}) == [0]


def test_a_site_that_is_passed_by_is_refused_at_once() -> None:
    run = Run()
    run.called([A], [A], may_skip=False)
    with pytest.raises(SteeringError, match=r"^double\.1\.image: .* never did"):
        run.called([A, B], [A], may_skip=False)


def test_a_call_that_may_be_skipped_gets_until_the_end_of_the_run() -> None:
    run = Run()
    run.called([A, B], [], may_skip=True)
    with pytest.raises(SteeringError, match=r"double\.0\.image, double\.1\.image"):
        run.finish()
    run.called([A, B], [A, B], may_skip=True)
    run.finish()


def test_a_block_that_runs_past_the_hooks_is_refused_even_where_calls_may_be_skipped() -> None:
    run = Run()
    run.called([A, B], [A, B], may_skip=True, ran=[A, B])
    run.called([A, B], [], may_skip=True)
    with pytest.raises(SteeringError, match=r"^double\.1\.image: .*ran without them"):
        run.called([A, B], [A], may_skip=True, ran=[A, B])


def test_logs_are_found_by_picture_in_either_precision() -> None:
    latent, log = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)), FiringLog()
    file_log(latent, log)
    assert find_logs(latent[[2, 0]]) == [[(log, 2)], [(log, 0)]]
    assert find_logs(latent.half()) == [[(log, 0)], [(log, 1)], [(log, 2)]]


def test_the_logs_of_all_runs_that_made_a_picture_are_kept() -> None:
    latent, first, second = torch.full((1, 4, 2, 2), 3.0), FiringLog(), FiringLog()
    forget_logs()
    file_log(latent, first)
    file_log(torch.cat([latent + 1, latent]), second)
    assert find_logs(latent) == [[(second, 1), (first, 0)]]


def test_runs_are_counted_and_not_pictures() -> None:
    forget_logs()
    latents = [torch.arange(40.0).view(-1, 1, 1, 1) + 100 * run for run in range(RUNS_KEPT + 1)]
    for latent in latents:
        file_log(latent, FiringLog())
    for latent in latents[1:]:
        assert len(find_logs(latent)) == 40
    with pytest.raises(SteeringError, match="change the seed"):
        find_logs(latents[0])
    with pytest.raises(SteeringError, match="at least one picture"):
        find_logs(latents[1][:0])
