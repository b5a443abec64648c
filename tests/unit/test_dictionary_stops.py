"""Trainings that cannot go on, or that meet in one folder: what is said, and what is left on the disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from steerdit.steering.errors import SteeringError
from steerdit.training.adaptation.domains import adapt_sae
from steerdit.training.adaptation.terms import AdaptationConfig
from steerdit.training.alone import alone
from steerdit.training.dictionaries import checkpoint, job, process
from steerdit.training.recordings import Recording

from .recordings import recording
from .test_dictionary_job import CONFIG, asked
from .test_dictionary_training import said, same

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def recorded(tmp_path: Path) -> Recording:
    return recording(tmp_path / "recording")


def with_files_up_to(size: int, work: Callable[[], object]) -> str:
    """What it refuses where no file can be longer than so many bytes, as on a disk that is full then."""
    resource = pytest.importorskip("resource")
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            work()
            os.write(say, b"nothing")
        except SteeringError as refusal:
            os.write(say, str(refusal).encode())
        except BaseException as reason:
            os.write(say, f"not a refusal: {reason!r}".encode())
        finally:
            os._exit(0)
    os.close(say)
    with os.fdopen(hear, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


@forks
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "job: expected a disk that takes what the training writes"),  # nor can it say why
        (4000, "checkpoint.safetensors: expected to write"),
        (9000, "progress.jsonl: expected to write how the training goes"),
    ],
)
def test_a_full_disk_is_said_however_full(
    size: int, message: str, recorded: Recording, tmp_path: Path
) -> None:
    longer = dataclasses.replace(CONFIG, steps=200, log_every=1)
    folder, whole = tmp_path / "job", tmp_path / "whole"
    for path in (folder, whole):
        job.prepare(path, asked(recorded, longer))
    assert message in with_files_up_to(size, lambda: process.run(folder))
    assert not (folder / job.RESULT).exists()
    assert not list(folder.glob(".*"))
    found, expected = process.run(folder), process.run(whole)
    assert found is not None
    assert expected is not None
    assert same(found, expected)
    assert said(folder) == said(whole)


def test_two_trainings_in_one_folder_take_turns(recorded: Recording, tmp_path: Path) -> None:
    folder, whole = tmp_path / "job", tmp_path / "whole"
    for path in (folder, whole):
        job.prepare(path, asked(recorded))
    expected = process.run(whole)
    assert expected is not None
    for training in [process.Training(folder), process.Training(folder)]:
        found = training.result()
        assert found is not None
        assert same(found, expected)
    assert said(folder) == said(whole)


def test_a_training_that_has_to_wait_too_long_is_refused(
    recorded: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PATIENCE", 0.1)
    job.prepare(tmp_path / "job", asked(recorded))
    with (
        alone(tmp_path / "job" / job.LOCK, "training"),
        pytest.raises(SteeringError, match="job: expected one training at a time in this folder"),
    ):
        job.run(tmp_path / "job")
    job.run(tmp_path / "job")


def test_what_a_kill_left_half_written_is_removed(recorded: Recording, tmp_path: Path) -> None:
    job.prepare(tmp_path / "job", asked(recorded))
    half = f".{checkpoint.FILE}.0123abcd.part"
    (tmp_path / "job" / half).write_bytes(b"half")
    sae = job.run(tmp_path / "job")
    assert not list((tmp_path / "job").glob(".*"))

    config = AdaptationConfig(steps=4, batch=20)
    folders: set[Path] = set()
    for _ in range(2):
        adapt_sae(sae, recorded, recorded, config, method="steps", checkpoints=tmp_path / "adaptations")
        folders |= set((tmp_path / "adaptations").iterdir())
        assert not list((tmp_path / "adaptations").glob("*/.*"))
        (next(iter(folders)) / half).write_bytes(b"half")
    assert len(folders) == 1
