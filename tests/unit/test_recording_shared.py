"""Folders that hold something already: one process at a part, nothing overwritten, lost shards made again."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from steerdit.steering.errors import SteeringError
from steerdit.training.alone import alone
from steerdit.training.recordings import RecordingWriter, merge, open_recording

from .recordings import SETTINGS, SITES, manifest, planned, recording, rows_of, write
from .test_recording_writing import files, forks


def test_a_whole_recording_is_not_overwritten_by_a_merge(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / f"part{index}", shard=(index, 2))
    parts = [tmp_path / "part0", tmp_path / "part1"]
    write(tmp_path / "other", manifest(settings=replace(SETTINGS, cfg=2.0)))
    before = files(tmp_path / "other")
    with pytest.raises(SteeringError, match=r"other/?\S*: settings\.cfg|settings\.cfg: expected"):
        merge(parts, tmp_path / "other")
    assert files(tmp_path / "other") == before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(SteeringError, match=r"letters: expected an empty folder.*found letter\.txt"):
        merge(parts, tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["letter.txt"]
    whole = merge(parts, tmp_path / "whole")
    assert merge(parts, tmp_path / "whole") == whole
    assert files(tmp_path / "whole") == files(recording(tmp_path / "at once").folder)


def test_a_merge_goes_on_from_what_the_folder_has(tmp_path: Path) -> None:
    write(tmp_path / "a", shard=(0, 2))
    write(tmp_path / "b", shard=(1, 2))
    merge([tmp_path / "b"], tmp_path / "a")
    assert files(tmp_path / "a") == files(recording(tmp_path / "at once").folder)


def test_shards_that_were_lost_are_made_again_and_nothing_else(tmp_path: Path) -> None:
    folder = recording(tmp_path / "recording").folder
    whole = files(folder)
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    lost = folder / "shard-00004.safetensors"
    lost.write_bytes(b"cut short")
    with pytest.raises(SteeringError, match=r"shard-00004.*Delete it and record again"):
        open_recording(folder).read(next(iter(SITES)))
    lost.unlink()
    said = manifest()
    writer = RecordingWriter(folder, said, planned(said))
    assert files(folder) == {name: data for name, data in whole.items() if name != lost.name}
    assert writer.missing == [4]
    with writer.at_work():
        assert not (folder / "manifest.json").exists()
        for number in list(writer.missing):
            writer.write(number, {site: rows_of(said, number, site) for site in SITES})
        assert writer.finish() is not None
    assert files(folder) == whole
    again = {path.name for path in folder.glob("shard-*") if path.stat().st_mtime_ns != stamps[path.name]}
    assert again == {lost.name}


def holder(folder: Path) -> int:
    """A process that has begun the only part of a recording, and waits."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            whole = manifest()
            with RecordingWriter(folder, whole, planned(whole)).at_work():
                (folder / f".shard-00000.safetensors.{'0' * 8}.partial").write_bytes(b"half")
                os.write(say, b"ready")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(hear, 5) == b"ready"
    os.close(hear)
    os.close(say)
    return child


@forks
def test_a_part_is_recorded_by_one_process_at_a_time(tmp_path: Path) -> None:
    first = holder(tmp_path / "recording")
    whole = manifest()
    second = RecordingWriter(tmp_path / "recording", whole, planned(whole))
    with (
        pytest.raises(SteeringError, match=r"recording: expected one recording of a part at a time"),
        second.at_work(),
    ):
        pytest.fail("both are at it")
    write(tmp_path / "recording", shard=(1, 2))  # another part
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    with second.at_work():  # what the other part has made meanwhile is not missing
        assert second.missing == [0, 2, 4, 6]
        assert not list(tmp_path.glob("*/.shard-*"))
        for number in list(second.missing):
            second.write(number, {site: rows_of(whole, number, site) for site in SITES})
        assert second.finish() is not None
    assert files(tmp_path / "recording") == files(recording(tmp_path / "whole").folder)


def test_who_holds_a_folder_is_waited_for(tmp_path: Path) -> None:
    path, order = tmp_path / ".lock", list[str]()
    held = threading.Event()

    def first() -> None:
        with alone(path, "thing"):
            held.set()
            threading.Event().wait(0.5)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(60)
    with alone(path, "thing", patience=60):
        order.append("second")
        assert path.exists()
    thread.join()
    assert order == ["first", "second"]
    assert not path.exists()
    nowhere = alone(tmp_path / "gone" / ".lock", "thing")
    with pytest.raises(SteeringError, match="gone: expected a folder in which a thing can write"), nowhere:
        pytest.fail("there is no such folder")
