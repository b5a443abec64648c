"""Whatever stops a recording, it goes on and ends as if nothing had been; parts make the same whole."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.steering.errors import SteeringError
from steerdit.training.recordings import RecordingWriter, merge, open_recording, samples_of, writer
from steerdit.training.recordings.launch import shard_named, take_own_device
from steerdit.training.recordings.manifest import FILE

from .recordings import SETTINGS, SITES, manifest, planned, prompts, recording, rows_of, write

TEXT, IMAGE = SITES
POINTS = ("fsync", "replace", "unlink", "open")
"""What a process does to the disk when it writes a recording."""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def in_a_child(work: Callable[[], None]) -> int:
    """Does it in a process of its own → its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(point: int) -> Callable[..., Any]:
    """A hook for `os` functions: the process is gone, at once, before the point-th call of any of them."""
    calls = 0

    def hook(original: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return function

    return hook


@forks
def test_killed_at_any_point_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = files(recording(tmp_path / "whole").folder)

    def dying(folder: Path, point: int) -> None:
        hook = killed_at(point)
        for name in POINTS:
            setattr(os, name, hook(getattr(os, name)))
        write(folder)

    kept: list[int] = []
    for point in range(1, 500, 3):
        folder = tmp_path / f"killed-{point}"
        if in_a_child(lambda folder=folder, point=point: dying(folder, point)) == 0:
            break
        shards = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
        kept.append(len(shards))
        assert not (folder / "manifest.json").exists() or len(shards) == 7
        assert write(folder) is not None
        assert files(folder) == whole
        # At most the shard in hand is made again.
        again = [name for name, stamp in shards.items() if (folder / name).stat().st_mtime_ns != stamp]
        assert len(again) <= 1
    else:
        pytest.fail("the recording never came to its end")
    assert len(kept) >= 10
    assert set(kept) >= {0, 3, 7}


@forks
def test_killed_twice_in_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "killed"

    def dying() -> None:
        hook = killed_at(12)
        os.fsync = hook(os.fsync)  # type: ignore[assignment]
        write(folder)

    for _ in range(2):
        assert in_a_child(dying) == -signal.SIGKILL
    write(folder)
    assert files(folder) == files(recording(tmp_path / "whole").folder)


@forks
def test_a_full_disk_stops_it_with_a_message_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    folder, says = tmp_path / "full", tmp_path / "says"
    whole = manifest(settings=replace(SETTINGS, samples_per_shard=9))
    size = RecordingWriter(tmp_path / "other", whole, planned(whole)).bytes_of(0)

    def filling() -> None:
        # The third shard is the short one: the first two do not fit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        writer = RecordingWriter(folder, whole, planned(whole))
        try:
            for number in reversed(list(writer.missing)):
                writer.write(number, {site: rows_of(whole, number, site) for site in SITES})
        except SteeringError as refusal:
            says.write_text(str(refusal), encoding="utf-8")

    assert in_a_child(filling) == 0
    text = says.read_text(encoding="utf-8")
    assert str(folder) in text
    assert "the finished shards are kept" in text
    assert [path.name for path in folder.glob("*.safetensors")] == ["shard-00002.safetensors"]
    assert not list(folder.glob(".*"))
    write(folder, whole)
    write(tmp_path / "whole", whole)
    assert files(folder) == files(tmp_path / "whole")


def test_a_disk_that_cannot_hold_it_is_told_before_anything_is_written(tmp_path: Path) -> None:
    whole = manifest()
    rows = [dict.fromkeys(SITES, 2**50) for _ in whole.ranges()]
    with pytest.raises(SteeringError, match=r"TB of free disk for 7 shards, found"):
        RecordingWriter(tmp_path / "recording", whole, rows).require_space()
    writer = RecordingWriter(tmp_path / "small", whole, planned(whole))
    writer.require_space()
    write(tmp_path / "small")
    for number in range(7):
        there = (tmp_path / "small" / f"shard-{number:05d}.safetensors").stat().st_size
        assert writer.bytes_of(number) <= there <= writer.bytes_of(number) + 1500


@pytest.mark.parametrize("count", [2, 3, 9])
def test_parts_make_the_same_whole(count: int, tmp_path: Path) -> None:
    whole = files(recording(tmp_path / "whole").folder)
    parts = [tmp_path / f"part{index}" for index in range(count)]
    for index, part in enumerate(parts):
        assert write(part, shard=(index, count)) is None
    before = [files(part) for part in parts]
    merge(parts, tmp_path / "merged")
    assert files(tmp_path / "merged") == whole
    assert [files(part) for part in parts] == before
    # In one folder, whoever comes last finishes; in any order.
    done = [write(tmp_path / "shared", shard=(index, count)) for index in reversed(range(count))]
    assert done[-1] is not None
    assert files(tmp_path / "shared") == whole
    # Into one of the parts, and of a whole one.
    merge(parts, parts[0])
    assert files(parts[0]) == whole
    merge([parts[0]], tmp_path / "copy")
    assert files(tmp_path / "copy") == whole


def test_more_processes_may_take_over_what_one_began(tmp_path: Path) -> None:
    whole, folder = manifest(), tmp_path / "recording"
    writer = RecordingWriter(folder, whole, planned(whole))
    for number in (0, 1):
        writer.write(number, {site: rows_of(whole, number, site) for site in SITES})
    others = [RecordingWriter(folder, whole, planned(whole), (index, 2)) for index in (0, 1)]
    assert [other.missing for other in others] == [[2, 4, 6], [3, 5]]
    for other in others:
        for number in list(other.missing):
            other.write(number, {site: rows_of(whole, number, site) for site in SITES})
    assert others[0].finish() is not None
    assert others[1].finish() is not None
    assert files(folder) == files(recording(tmp_path / "whole").folder)


@forks
def test_processes_that_start_at_once_in_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    whole = files(recording(tmp_path / "whole").folder)
    for attempt in range(5):
        folder = tmp_path / f"shared{attempt}"
        children: list[int] = []
        for index in range(3):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    write(folder, shard=(index, 3))
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert files(folder) == whole


@pytest.mark.parametrize("late", ["who opens", "who finishes"])
def test_nobody_looks_into_a_folder_while_another_finishes_it(
    late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shared"
    first, last = (RecordingWriter(folder, manifest(), planned(manifest()), (index, 2)) for index in (0, 1))
    for one in (first, last):
        for number in list(one.missing):
            one.write(number, {site: rows_of(manifest(), number, site) for site in SITES})
    monkeypatch.setattr(writer, "PATIENCE", 0.0)
    refused: list[str] = []
    tidy = writer.tidy

    def interrupted(path: Path) -> None:
        (path / writer.PLAN).unlink()
        (path / FILE).rename(path / "elsewhere")  # the moment at which a folder looks like anybody's
        with pytest.raises(SteeringError, match="one recording at a time") as reason:
            first.finish() if late == "who finishes" else write(folder, shard=(0, 2))
        refused.append(str(reason.value))
        (path / "elsewhere").rename(path / FILE)
        tidy(path)

    monkeypatch.setattr(writer, "tidy", interrupted)
    assert last.finish() is not None
    monkeypatch.undo()
    assert len(refused) == 1
    assert first.finish() is not None
    assert files(folder) == files(recording(tmp_path / "whole").folder)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", shard=(0, 2))
    other = manifest(settings=replace(SETTINGS, cfg=2.0))
    write(tmp_path / "b", other, shard=(1, 2))
    with pytest.raises(SteeringError, match=r"settings\.cfg: expected 1\.0, found 2\.0"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    with pytest.raises(SteeringError, match="the first that is missing is number 1"):
        merge([tmp_path / "a"], tmp_path / "merged")
    with pytest.raises(SteeringError, match="found neither"):
        merge([tmp_path], tmp_path / "merged")
    with pytest.raises(SteeringError, match="at least one folder"):
        merge([], tmp_path / "merged")
    write(tmp_path / "c", shard=(1, 2))
    shard = tmp_path / "c" / "shard-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(SteeringError, match=r"c/shard-00003\.safetensors: expected the hash"):
        merge([tmp_path / "a", tmp_path / "c"], tmp_path / "merged")
    assert not (tmp_path / "merged" / "manifest.json").exists()
    assert not list((tmp_path / "merged").glob(".*"))


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (manifest(settings=replace(SETTINGS, steps=5)), r"settings\.steps"),
        (manifest(sites={TEXT: 6}), r"sites\.single\.1\.image"),
        (manifest(sites={TEXT: 6, IMAGE: 9}), r"sites\.single\.1\.image"),
        (manifest(samples_of(prompts(benign=5), (1, 2))), "samples: expected 22, found 20 of them"),
        (manifest(samples_of(prompts(), (1, 3))), r"samples\[\d+\]\.\w+"),
        (replace(manifest(), sigmas=(1.0, 0.8, 0.5, 0.25)), r"sigmas\[1\]"),
        (replace(manifest(), versions={"steerdit": "newer"}), r"versions\.steerdit"),
        (replace(manifest(), text_encoder="1" * 64), r"plan\.json: text_encoder"),
        (
            replace(manifest(), model=replace(manifest().model, digest="1" * 64)),
            r"plan\.json: model\.digest",
        ),
    ],
)
def test_another_recording_in_the_folder_is_refused(other: Any, field: str, tmp_path: Path) -> None:
    write(tmp_path / "recording", shard=(0, 2))
    before = files(tmp_path / "recording")
    with pytest.raises(SteeringError, match=field):
        RecordingWriter(tmp_path / "recording", other, planned(other))
    assert files(tmp_path / "recording") == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(SteeringError, match=r"an empty folder.*found letter\.txt"):
        write(tmp_path)
    with pytest.raises(SteeringError, match="expected to write the recording"):
        write(tmp_path / "letter.txt" / "recording")


def test_a_list_of_shards_that_was_edited_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "recording", shard=(0, 2))
    part = tmp_path / "recording" / "part-00000-of-00002.json"
    part.write_text(part.read_text(encoding="utf-8").replace('"first": 6', '"first": 5'), encoding="utf-8")
    with pytest.raises(SteeringError, match=r"part-00000-of-00002\.json: shards\[1\]: expected a shard of 3"):
        write(tmp_path / "recording", shard=(0, 2))


def test_values_that_were_not_planned_are_refused(tmp_path: Path) -> None:
    whole = manifest()
    writer = RecordingWriter(tmp_path / "recording", whole, planned(whole))
    rows = {site: rows_of(whole, 0, site) for site in SITES}
    for wrong in (
        rows[TEXT]._replace(tokens=rows[TEXT].tokens[:-1]),
        rows[TEXT]._replace(tokens=rows[TEXT].tokens.half()),
    ):
        with pytest.raises(SteeringError, match=r"shard-00000\.safetensors: double\.1\.text"):
            writer.write(0, {**rows, TEXT: wrong})
    assert writer.missing == list(range(7))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_numbers_are_kept_in_the_dtype_that_was_asked_for(dtype: str, tmp_path: Path) -> None:
    whole = manifest(settings=replace(SETTINGS, dtype=dtype))
    made = recording(tmp_path / "recording", whole)
    kept = torch.cat([rows_of(whole, number, TEXT).tokens for number in range(7)])
    assert kept.dtype == getattr(torch, dtype)
    assert torch.equal(made.read(TEXT).tokens, kept.float())


def test_a_recording_may_be_moved(tmp_path: Path) -> None:
    made = recording(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert torch.equal(
        open_recording(tmp_path / "there").read(TEXT).position, recording(tmp_path / "h").read(TEXT).position
    )
    assert made.count(TEXT) == 400


@pytest.mark.parametrize(
    ("text", "environment", "part"),
    [
        (None, {}, (0, 1)),
        ("2/5", {"RANK": "1", "WORLD_SIZE": "4"}, (2, 5)),
        (None, {"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, (1, 4)),
        (None, {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, (3, 8)),
        (None, {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        (None, {"RANK": "3"}, (0, 1)),
    ],
)
def test_launchers_say_which_part(
    text: str | None, environment: dict[str, str], part: tuple[int, int]
) -> None:
    assert shard_named(text, environment) == part


@pytest.mark.parametrize("text", ["", "1", "1/", "2/2", "-1/2", "a/b", "1/2/3", "0/0"])
def test_parts_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(SteeringError, match=r"--shard: expected i/n with 0 <= i < n"):
        shard_named(text, {})
    with pytest.raises(SteeringError, match="RANK/WORLD_SIZE"):
        shard_named(None, {"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(SteeringError, match="0 <= i < n"):
        write(Path("nowhere"), shard=(1, 1))


@pytest.mark.parametrize(
    ("environment", "device"),
    [
        ({}, None),
        ({"LOCAL_RANK": "2"}, "2"),
        ({"LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, "6"),
        ({"LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "7"}, None),
        ({"SLURM_LOCALID": "1"}, None),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1"}, "1"),
    ],
)
def test_processes_of_one_machine_take_a_gpu_each(environment: dict[str, str], device: str | None) -> None:
    assert take_own_device(environment) == device
    assert device is None or environment["CUDA_VISIBLE_DEVICES"] == device
