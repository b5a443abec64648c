"""A recording of a model that was killed while it sampled goes on and ends with the same bytes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from steerdit.training.recordings import merge

from .recorded import files, recorded
from .tiny import tiny

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def killed(model: object, family: str, folder: Path, after: int, shard: tuple[int, int] = (0, 1)) -> bool:
    """Records in a process of its own, which is gone after so many visits of sites; False if it came to its end."""
    child = os.fork()
    if child == 0:
        visits = 0

        def count() -> bool:
            nonlocal visits
            visits += 1
            if visits > after:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

        try:
            recorded(model, family, folder, shard=shard, interrupted=count)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_killed_while_sampling_it_ends_the_same(family: str, tmp_path: Path) -> None:
    model = tiny(family, tmp_path)
    whole = tmp_path / "whole"
    recorded(model, family, whole)
    shards: list[int] = []
    for after in (3, 40, 75):
        folder = tmp_path / f"after{after}"
        assert killed(model, family, folder, after)
        shards.append(len(list(folder.glob("shard-*"))))
        assert recorded(model, family, folder) is not None
        assert files(folder) == files(whole)
    assert shards[0] == 0 < shards[-1] < 4
    assert shards == sorted(shards)


def test_killed_again_and_again_and_merged(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    parts = [tmp_path / "part0", tmp_path / "part1"]
    for index, part in enumerate(parts):
        for _ in range(2):
            assert killed(model, "flux", part, 20, (index, 2))
        recorded(model, "flux", part, shard=(index, 2))
    merge(parts, tmp_path / "merged")
    recorded(model, "flux", tmp_path / "whole")
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
