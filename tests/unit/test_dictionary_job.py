"""Trainings as jobs: a process of its own that can be killed, processes that train together, and what others read."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.benchmarks import peers
from steerdit.steering.errors import SteeringError
from steerdit.steering.formats.bundle import verify
from steerdit.steering.formats.foreign import open_foreign
from steerdit.steering.sae import SelectedLatents
from steerdit.steering.sites import Site
from steerdit.training.dictionaries import checkpoint, child, job, journal, process
from steerdit.training.dictionaries.config import TrainingConfig
from steerdit.training.dictionaries.data import of_tensor
from steerdit.training.dictionaries.export import export_saelens
from steerdit.training.dictionaries.job import Job
from steerdit.training.dictionaries.result import Origin, TrainedSAE, read_trained, write_trained
from steerdit.training.dictionaries.training import train
from steerdit.training.recordings import Recording

from . import dictionary_rank
from .recordings import recording
from .test_dictionary_training import said, same, sparse_data

SITE = Site.parse("single.1.image")
CONFIG = TrainingConfig(
    latents=24, k=3, steps=40, batch=64, rate=5e-3, warmup=5, evaluate_every=20, log_every=5, checkpoint_every=10,
    held_out=0.2,
)  # fmt: skip
ENDLESS = dataclasses.replace(CONFIG, steps=1_000_000, checkpoint_every=5)


@pytest.fixture
def recorded(tmp_path: Path) -> Recording:
    return recording(tmp_path / "recording")


def asked(recorded: Recording, config: TrainingConfig = CONFIG, **rest: Any) -> Job:
    return Job.of(
        recorded, SITE, **{"config": config, "device": "cpu", "threads": 1, "license": "MIT", **rest}
    )


def wait_for(what: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_job_in_a_process_of_its_own_gives_what_this_process_gives(
    recorded: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = Path("here"), Path("there")  # as on the command line
    job.prepare(here, asked(recorded))
    job.prepare(there, asked(recorded))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    mine = job.run(here)
    torch.set_num_threads(threads)
    heard: list[int] = []
    theirs = process.run(there, report=lambda lines: heard.append(len(lines)))
    assert theirs is not None
    assert same(mine, theirs)
    assert said(here) == said(there)
    assert heard[-1] == len(said(there))
    assert theirs.path == there / job.RESULT
    assert (
        process.run(there, report=lambda lines: heard.append(len(lines))) is not None
    )  # there is nothing to do
    assert heard[-1] == len(said(there))


def test_a_job_that_is_killed_goes_on_to_the_same_bits(recorded: Recording, tmp_path: Path) -> None:
    longer = dataclasses.replace(CONFIG, steps=400)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    job.prepare(whole, asked(recorded, longer))
    expected = process.run(whole)
    assert expected is not None
    job.prepare(folder, asked(recorded, longer))
    training = process.Training(folder)
    wait_for(lambda: (folder / checkpoint.FILE).exists() or not training.running())
    training.process.kill()
    if training.process.wait() != 0:  # it may have been faster
        with pytest.raises(
            SteeringError, match=f"exit status -{int(signal.SIGKILL)}" if os.name == "posix" else ""
        ):
            training.result()
    found = process.run(folder)
    assert found is not None
    assert same(found, expected)
    assert said(folder) == said(whole)


def test_a_job_stops_when_it_is_asked_to_and_when_its_parent_is_no_more(
    recorded: Recording, tmp_path: Path
) -> None:
    job.prepare(tmp_path / "job", asked(recorded, ENDLESS))
    stopped = process.run(tmp_path / "job", stop=lambda: len(journal.read(tmp_path / "job")) > 0)
    assert stopped is None
    before = (tmp_path / "job" / checkpoint.FILE).read_bytes()
    training = process.Training(tmp_path / "job")
    wait_for(lambda: (tmp_path / "job" / checkpoint.FILE).read_bytes() != before)
    assert training.process.stdin is not None
    training.process.stdin.close()  # as the end of the parent does
    assert training.process.wait(120) == child.STOPPED
    assert training.result() is None


def test_what_a_job_refuses_comes_back_as_it_was_said(recorded: Recording, tmp_path: Path) -> None:
    job.prepare(tmp_path / "job", asked(recorded, dataclasses.replace(CONFIG, batch=100_000)))
    with pytest.raises(SteeringError, match=r"single\.1\.image: expected at least 100000 rows"):
        process.run(tmp_path / "job")
    shard = recorded.folder / recorded.manifest.shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1])
    job.prepare(tmp_path / "other", asked(recorded))
    with pytest.raises(SteeringError, match="cut short or edited"):
        process.run(tmp_path / "other")


def test_a_folder_belongs_to_one_job(recorded: Recording, tmp_path: Path) -> None:
    first = job.prepare(tmp_path / "job", asked(recorded, threads=2))
    assert job.prepare(tmp_path / "job", asked(recorded, threads=1)) == first
    other = asked(recorded, dataclasses.replace(CONFIG, k=2), labels=("unsafe",))
    with pytest.raises(SteeringError, match=r"differs in labels, config\.k"):
        job.prepare(tmp_path / "job", other)
    path = tmp_path / "job" / job.FILE
    path.write_text(path.read_text().replace('"k": 3', '"kay": 3'))
    with pytest.raises(SteeringError, match=r"job\.json: config: kay"):
        job.prepare(tmp_path / "job", asked(recorded))
    with pytest.raises(SteeringError, match="site text"):
        Job.of(recorded, Site.parse("text"))


def test_a_job_from_before_there_was_a_choice_of_gradients_is_a_plain_one(
    recorded: Recording, tmp_path: Path
) -> None:
    plain = asked(recorded, dataclasses.replace(CONFIG, gradients="plain"))
    assert "gradients" not in plain.text()  # as jobs were written then, and checkpoints told apart
    assert Job.parse(plain.text(), job.FILE) == plain
    assert Job.parse(asked(recorded).text(), job.FILE) == asked(recorded)
    assert asked(recorded).identity != plain.identity
    job.prepare(tmp_path / "job", plain)
    assert same(job.run(tmp_path / "job"), job.run(tmp_path / "job"))
    with pytest.raises(SteeringError, match=r"differs in config\.gradients"):
        job.prepare(tmp_path / "job", asked(recorded))


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({"license": "what?"}, "job: license: expected an SPDX"),
        ({"labels": ("odd",)}, r"job: labels\[0\]: expected 'unsafe'"),
        ({"base": ""}, "job: base: expected a non-empty"),
        ({"threads": -1}, "job: threads: expected a whole number"),
    ],
)
def test_what_a_result_could_not_say_is_refused_before_training(
    rest: dict[str, Any], message: str, recorded: Recording, tmp_path: Path
) -> None:
    with pytest.raises(SteeringError, match=message):
        job.prepare(tmp_path / "job", asked(recorded, **rest))
    assert not (tmp_path / "job").exists()  # so that the corrected command finds an empty place


def test_a_training_in_which_nothing_fires_comes_to_its_end(recorded: Recording, tmp_path: Path) -> None:
    wild = dataclasses.replace(CONFIG, rate=1.0, steps=60, warmup=0, batch=32)
    job.prepare(tmp_path / "job", asked(recorded, wild))
    assert job.run(tmp_path / "job").steps == 60


def test_a_job_notices_that_its_recording_is_another(recorded: Recording, tmp_path: Path) -> None:
    job.prepare(tmp_path / "job", dataclasses.replace(asked(recorded), digest="1" * 64))
    with pytest.raises(SteeringError, match="the recording that the job began with"):
        job.run(tmp_path / "job")


def test_the_child_imports_no_host(recorded: Recording, tmp_path: Path) -> None:
    look = (
        "import runpy, sys; sys.argv = ['launch.py']; names = runpy.run_path(sys.orig_argv[-1]); names['enter'](); "
        "import steerdit.training.dictionaries.child; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'comfy', 'comfy_api', 'server', 'nodes'}))"
    )
    launch = process.HERE / "launch.py"
    found = subprocess.run(
        [sys.executable, "-c", look, str(launch)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def together(folder: Path, world: int, config: TrainingConfig, activations: Path) -> TrainedSAE:
    """Trains in so many processes; gives what the first one has."""
    folder.mkdir()
    (folder / "config.toml").write_text(config.toml())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, dictionary_rank.__file__, folder / "config.toml", activations, folder]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    running = [
        subprocess.Popen([str(it) for it in command], env={**os.environ, **place, "RANK": str(rank)})
        for rank in range(world)
    ]
    assert [one.wait(400) for one in running] == [0] * world
    parts = [torch.load(folder / f"sae-{rank}.pt", weights_only=False) for rank in range(world)]
    for part in parts[1:]:
        assert torch.equal(part["decoder"], parts[0]["decoder"])
    return TrainedSAE(**parts[0])


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
def test_two_processes_have_the_curve_of_one(activation: str, tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        activation=activation,
        latents=64,
        batch=256,
        steps=30,
        log_every=1,
        dead_after=1280,
        checkpoint_every=8,
    )
    activations, _ = sparse_data(1200)
    torch.save(activations, tmp_path / "activations.pt")
    one = train(config, of_tensor(activations, config), folder=_made(tmp_path / "one"))
    two = together(tmp_path / "two", 2, config, tmp_path / "activations.pt")
    curves = [journal.read(tmp_path / name) for name in ("one", "two")]
    assert [line.step for line in curves[0]] == [line.step for line in curves[1]]
    for a, b in zip(*curves):
        assert (b.loss, b.fvu) == pytest.approx((a.loss, a.fvu), abs=1e-3, rel=1e-3)
        assert b.l0 == pytest.approx(a.l0, abs=0.05)  # a value at its threshold may round to either side
        assert b.dead == pytest.approx(a.dead, abs=0.02)
    assert two.fvu == pytest.approx(one.fvu, abs=2e-3)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def learnt(activation: str, site: Site = SITE) -> TrainedSAE:
    config = dataclasses.replace(CONFIG, activation=activation, latents=64)
    data = 3 * sparse_data()[0] + 1  # so that the input scale is not 1
    origin = Origin(site, "flux", "a FLUX", license="MIT", name="learnt", recording="f" * 64)
    return train(config, of_tensor(data, config), origin=origin)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
def test_what_was_trained_is_what_steering_and_sae_lens_read(activation: str, tmp_path: Path) -> None:
    sae = learnt(activation)
    bundle = write_trained(tmp_path / "sae.safetensors", [sae])
    verify(bundle.path)
    again = read_trained(bundle.path)
    assert same(sae, again)
    assert again.origin == sae.origin
    assert (again.activation, again.k, again.recipe) == (sae.activation, sae.k, sae.recipe)

    x = 3 * sparse_data()[0] + 1
    z, reconstructed = sae.encode(x), sae.reconstruct(x)
    steered = SelectedLatents(bundle.sites[SITE], bundle.read_latents(SITE), topk="exact")
    torch.testing.assert_close(steered.encode(x), z, atol=1e-5, rtol=1e-5)

    path = export_saelens(bundle, SITE, tmp_path / "saelens")
    theirs = peers.sae_lens().SAE.load_from_disk(path.parent)
    with torch.no_grad():
        codes = theirs.encode(x)
        torch.testing.assert_close(theirs.decode(codes), reconstructed, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codes * sae.input_scale, z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs.W_dec.norm(dim=1), torch.ones(64))
    read = open_foreign(path)
    latents = SelectedLatents(read.described({}), read.read(), topk="exact")
    torch.testing.assert_close(latents.decode(latents.encode(x), x), reconstructed, atol=1e-4, rtol=1e-5)


def test_a_topk_threshold_lets_k_fire_on_average() -> None:
    sae = learnt("topk")
    x = 3 * sparse_data()[0] + 1
    relaxed = dataclasses.replace(sae, activation="jumprelu")
    assert float((relaxed.encode(x) > 0).sum(1).float().mean()) == pytest.approx(3, rel=0.1)


def test_a_bundle_holds_several_sites_of_one_model(tmp_path: Path) -> None:
    first, second = learnt("topk"), learnt("batchtopk", Site.parse("text"))
    bundle = write_trained(tmp_path / "both.safetensors", [first, second], "both")
    assert bundle.name == "both"
    assert same(read_trained(bundle.path, SITE), first)
    assert same(read_trained(bundle.path, Site.parse("text")), second)
    with pytest.raises(SteeringError, match="expected one site, found single"):
        read_trained(bundle.path)
    with pytest.raises(SteeringError, match="each site once"):
        write_trained(tmp_path / "twice.safetensors", [first, first])
    assert first.origin is not None
    assert second.origin is not None
    other = dataclasses.replace(second, origin=dataclasses.replace(second.origin, base="another"))
    with pytest.raises(SteeringError, match="expected autoencoders of a FLUX"):
        write_trained(tmp_path / "mixed.safetensors", [first, other])
    assert not (tmp_path / "twice.safetensors").exists()


def test_only_what_was_trained_here_is_read_as_such(tmp_path: Path) -> None:
    from steerdit.steering.formats.writing import write_bundle

    from .bundles import small_header, small_tensors

    header = small_header()
    write_bundle(tmp_path / "small.safetensors", header, small_tensors(header))
    with pytest.raises(SteeringError, match="SAE training"):
        read_trained(tmp_path / "small.safetensors", next(iter(header.sites)))
