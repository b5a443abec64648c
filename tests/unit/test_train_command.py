"""`python -m steerdit train` and `export`: alone, by torchrun, stopped and continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from steerdit.__main__ import main
from steerdit.benchmarks import peers
from steerdit.training.dictionaries import checkpoint, job
from steerdit.training.dictionaries.result import read_trained

from .recordings import recording

SITE = "single.1.image"
SETTINGS = ["latents=24", "k=3", "batch=64", "rate=0.005", "held_out=0.2", "log_every=5", "evaluate_every=20"]
SET = [part for one in SETTINGS for part in ("--set", one)]


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    return str(recording(tmp_path / "recording").folder)


def asked(recorded: str, to: Path, *more: str) -> list[str]:
    return [
        "train",
        recorded,
        "--site",
        SITE,
        "--to",
        str(to),
        "--device",
        "cpu",
        "--threads",
        "1",
        *SET,
        *more,
    ]


def test_a_command_trains_and_exports(
    recorded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own process keeps its handlers
    (tmp_path / "sae.toml").write_text('activation = "topk"\nsteps = 10\n')
    more = [
        "--config",
        str(tmp_path / "sae.toml"),
        "--set",
        "steps=20",
        "--saelens",
        str(tmp_path / "theirs"),
    ]
    assert main(asked(recorded, tmp_path / "job", *more, "--license", "MIT")) == 0
    assert "FVU" in capsys.readouterr().out
    sae = read_trained(tmp_path / "job" / job.RESULT)
    assert (sae.activation, sae.k, sae.steps, sae.latents) == ("topk", 3, 20, 24)
    assert main(["export", str(sae.path), str(tmp_path / "again")]) == 0
    for folder in ("theirs", "again"):
        theirs = peers.sae_lens().SAE.load_from_disk(tmp_path / folder)
        torch.testing.assert_close(theirs.W_dec.data, sae.decoder)
    assert main(asked(recorded, tmp_path / "other", "--set", "stepz=3")) == 1
    assert "stepz: expected only the keys" in capsys.readouterr().err
    assert main(asked(recorded, tmp_path / "other", "--set", "activation=gelu")) == 1
    assert "'topk' or 'batchtopk'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_torchrun_trains_one_in_many_processes(recorded: str, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "steerdit",
    ]  # fmt: skip
    found = subprocess.run(
        [*command, *asked(recorded, tmp_path / "two", "--set", "steps=20")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=400, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    alone = [sys.executable, "-m", "steerdit", *asked(recorded, tmp_path / "one", "--set", "steps=20")]
    subprocess.run(alone, capture_output=True, timeout=400, check=True)
    one, two = (read_trained(tmp_path / name / job.RESULT) for name in ("one", "two"))
    assert two.fvu == pytest.approx(one.fvu, rel=1e-3)
    assert two.input_scale == one.input_scale


@pytest.mark.skipif(os.name != "posix", reason="signals of other systems")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint(recorded: str, tmp_path: Path, sent: signal.Signals) -> None:
    endless = asked(
        recorded, tmp_path / "job", "--set", "steps=10000000", "--set", "checkpoint_every=1000000"
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "steerdit", *endless], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 240
    while (
        not (tmp_path / "job" / "progress.jsonl").exists()
        or not (tmp_path / "job" / "progress.jsonl").read_text()
    ):
        assert time.monotonic() < end
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(sent)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "go on from there" in errors
    assert (tmp_path / "job" / checkpoint.FILE).exists()
