"""A whole training: it finds what was put in, repeats itself, goes on where it was, and refuses what cannot be."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerdit.steering.errors import SteeringError
from steerdit.steering.sites import Site
from steerdit.training.dictionaries import checkpoint, journal
from steerdit.training.dictionaries.config import TrainingConfig, read_config
from steerdit.training.dictionaries.data import Data, of_recording, of_tensor
from steerdit.training.dictionaries.ranks import Ranks
from steerdit.training.dictionaries.result import TrainedSAE
from steerdit.training.dictionaries.training import Stopped, train

from .recordings import recording

TRUE, WIDTH = 24, 32
CONFIG = TrainingConfig(
    latents=64, k=3, steps=60, batch=64, rate=5e-3, warmup=5, evaluate_every=20, log_every=10, checkpoint_every=15,
    dead_after=640,
)  # fmt: skip


def sparse_data(n: int = 600) -> tuple[Tensor, Tensor]:
    """Activations that are sums of three of 24 directions, and the directions."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(TRUE, WIDTH, generator=g), dim=1)
    which = torch.stack([torch.randperm(TRUE, generator=g)[:3] for _ in range(n)])
    codes = torch.zeros(n, TRUE).scatter(1, which, 1 + torch.rand(n, 3, generator=g))
    return codes @ directions + 0.5, directions


def with_(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(CONFIG, **changes)


def trained(config: TrainingConfig = CONFIG, folder: Path | None = None, **rest: Any) -> TrainedSAE:
    if folder is not None:
        folder.mkdir(exist_ok=True)
    return train(config, of_tensor(sparse_data()[0], config), folder=folder, **rest)


def same(a: TrainedSAE, b: TrainedSAE) -> bool:
    figures = all(
        getattr(a, name) == getattr(b, name) for name in ("input_scale", "fvu", "l0", "dead", "steps")
    )
    tensors = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return figures and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
def test_a_dictionary_that_made_the_data_is_found_again(activation: str) -> None:
    data, directions = sparse_data(2000)
    config = with_(activation=activation, steps=400, batch=256, rate=1e-2, seed=1)
    sae = train(config, of_tensor(data, config))
    best = (directions @ sae.decoder.T).amax(1)
    assert (best > 0.9).float().mean() > 0.8
    assert sae.fvu < 0.2
    assert sae.l0 == pytest.approx(3, rel=0.25)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(64))
    again = sae.decode(sae.encode(data))
    torch.testing.assert_close(again, sae.reconstruct(data), atol=1e-5, rtol=1e-5)
    assert float((again - data).square().sum() / (data - data.mean(0)).square().sum()) < 0.2
    assert float((sae.encode(data) > 0).sum(1).float().mean()) == pytest.approx(sae.l0, rel=0.1)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
def test_a_training_repeats_itself_by_its_seed(activation: str) -> None:
    config = with_(activation=activation)
    with torch.inference_mode():  # as a host runs its nodes
        first = trained(config)
    assert same(first, trained(config))
    assert not same(first, trained(dataclasses.replace(config, seed=1)))


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("at", [1, 15, 37])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    activation: str, at: int, tmp_path: Path
) -> None:
    config = with_(activation=activation, patience=10)
    whole = trained(config, tmp_path / "whole")
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) == at

    with pytest.raises(Stopped):
        trained(config, tmp_path / "parts", stop=stop)
    assert same(whole, trained(config, tmp_path / "parts"))
    assert said(tmp_path / "parts") == said(tmp_path / "whole")
    assert same(whole, trained(config, tmp_path / "parts"))  # it is finished: there is nothing to do


def said(folder: Path) -> list[journal.Line]:
    """The journal without what differs from run to run."""
    return [dataclasses.replace(line, tokens_per_second=0.0) for line in journal.read(folder)]


class Crash(BaseException):
    """As sudden as kill −9, to the files."""


@pytest.mark.parametrize("at", [7, 29, 45])
def test_a_crash_costs_the_steps_since_the_checkpoint_and_changes_nothing(at: int, tmp_path: Path) -> None:
    whole = trained(CONFIG, tmp_path / "whole")
    calls: list[int] = []

    def crash() -> bool:
        calls.append(1)
        if len(calls) == at:
            with (tmp_path / "parts" / journal.FILE).open("a") as stream:
                stream.write('{"step": 9')  # in the middle of a line
            raise Crash
        return False

    with pytest.raises(Crash):
        trained(CONFIG, tmp_path / "parts", stop=crash)
    assert same(whole, trained(CONFIG, tmp_path / "parts"))
    assert said(tmp_path / "parts") == said(tmp_path / "whole")


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at(step: int) -> Callable[[], bool]:
        calls = iter(range(1, 1000))
        return lambda: next(calls) == step

    with pytest.raises(Stopped):
        trained(CONFIG, tmp_path, stop=stop_at(20))
    before = (tmp_path / checkpoint.FILE).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_container", full)
    with pytest.raises(SteeringError, match=r"No space left.*goes on from the checkpoint before"):
        trained(CONFIG, tmp_path)
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    trained(CONFIG, tmp_path)
    with pytest.raises(SteeringError, match="of this very configuration"):
        trained(with_(k=4), tmp_path)
    path = tmp_path / checkpoint.FILE
    for damaged in (path.read_bytes()[:-100], b""):
        path.write_bytes(damaged)
        with pytest.raises(SteeringError, match=rf"{checkpoint.FILE}.*delete this file to begin anew"):
            trained(CONFIG, tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
def test_a_training_that_is_not_finite_stops_and_keeps_its_checkpoint(
    activation: str, value: float, tmp_path: Path
) -> None:
    config = with_(activation=activation)
    good = of_tensor(sparse_data()[0], config)

    def spoiled(epoch: int, skip: int) -> Iterator[Tensor]:
        for number, batch in enumerate(good.batches(epoch, skip), start=skip):
            bad = batch.clone()
            if (epoch, number) == (2, 3):
                bad[5, 7] = value
            yield bad

    per_epoch = len(list(good.batches(0, 0)))
    data = Data(good.start, good.held, spoiled)
    step = 2 * per_epoch + 4
    for _ in range(2):  # it stops there again, from the checkpoint
        with pytest.raises(
            SteeringError, match=rf"step {step} of.*found an activation is NaN.*is kept"
        ) as found:
            train(config, data, folder=tmp_path)
        assert str(tmp_path / checkpoint.FILE) in str(found.value)
        state, progress = checkpoint.load(tmp_path, json.loads(_identity(tmp_path))["identity"]) or ({}, None)
        assert progress is not None
        assert progress.done == step // config.checkpoint_every * config.checkpoint_every
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())


def _identity(folder: Path) -> str:
    from steerdit.steering.formats.container import read_container

    return read_container(folder / checkpoint.FILE).metadata[checkpoint.KEY]


def test_training_ends_early_where_nothing_is_gained_and_the_best_is_what_comes_of_it(tmp_path: Path) -> None:
    config = with_(steps=1000, patience=2, gain=0.2, evaluate_every=10)
    sae = trained(config, tmp_path)
    held = [line for line in journal.read(tmp_path) if line.held]
    assert sae.steps < 1000
    assert sae.steps == held[-1].step
    best = math.inf
    waits = []
    for line in held:
        waits.append(0 if line.fvu < 0.8 * best else waits[-1] + 1)
        best = line.fvu if waits[-1] == 0 else best
    assert waits[-1] == 2
    assert max(waits[:-1]) < 2
    assert sae.fvu == min(best, held[-1].fvu)


def test_the_journal_says_how_it_goes(tmp_path: Path) -> None:
    heard: list[journal.Line] = []
    trained(CONFIG, tmp_path, report=heard.append)
    lines = journal.read(tmp_path)
    assert lines == heard
    assert [line.step for line in lines if not line.held] == [10, 20, 30, 40, 50, 60]
    assert [line.step for line in lines if line.held] == [20, 40, 60]
    assert all(line.tokens_per_second > 0 for line in lines if not line.held)
    assert lines[0].fvu > lines[-1].fvu
    rates = [line.rate for line in lines if not line.held]
    assert max(rates) == CONFIG.rate
    assert rates[-1] < rates[0]


def test_batches_are_those_of_the_seed_whatever_is_skipped_and_however_they_are_shared() -> None:
    data, _ = sparse_data(300)
    alone = of_tensor(data, CONFIG)
    whole = list(alone.batches(1, 0))
    assert len(whole) == 285 // 64
    assert torch.equal(torch.stack(list(alone.batches(1, 2))), torch.stack(whole[2:]))
    assert not torch.equal(next(alone.batches(0, 0)), whole[0])
    halves = [list(of_tensor(data, CONFIG, Ranks(rank, 2)).batches(1, 0)) for rank in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(torch.cat(parts), batch)
    with pytest.raises(SteeringError, match="multiple of 3"):
        of_tensor(data, CONFIG, Ranks(0, 3))
    with pytest.raises(SteeringError, match="at least 64 rows"):
        of_tensor(data[:60], CONFIG)


SITE = Site.parse("single.1.image")


def test_a_recording_is_trained_on_without_what_is_held_out(tmp_path: Path) -> None:
    whole = recording(tmp_path / "recording")
    config = with_(batch=40, held_out=0.2, steps=5, evaluate_every=5)
    found = of_recording(whole, SITE, config)
    rows = whole.read(SITE).tokens
    held = {tuple(row.tolist()) for row in found.held}
    seen = {tuple(row.tolist()) for batch in found.batches(0, 0) for row in batch}
    assert held
    assert not held & seen
    assert held | seen <= {tuple(row.tolist()) for row in rows}
    assert not held & {tuple(row.tolist()) for row in found.start}
    halves = [of_recording(whole, SITE, config, Ranks(rank, 2)) for rank in range(2)]
    assert all(torch.equal(half.held, found.held) for half in halves)
    for batch, *parts in zip(found.batches(3, 1), *(half.batches(3, 1) for half in halves), strict=True):
        assert torch.equal(torch.cat(parts), batch)
    sae = train(config, found)
    assert sae.width == 8
    unsafe = of_recording(whole, SITE, with_(batch=10, held_out=0.2), labels=["unsafe"])
    labels = [sample.label for sample in whole.manifest.samples]
    at = {tuple(t.tolist()): labels[int(s)] for t, s in zip(rows, whole.read(SITE).sample)}
    assert {at[tuple(row.tolist())] for row in unsafe.start} == {"unsafe"}


def test_a_recording_too_small_or_without_the_site_is_refused(tmp_path: Path) -> None:
    whole = recording(tmp_path / "recording")
    with pytest.raises(SteeringError, match=r"double\.0\.text: expected one of"):
        of_recording(whole, Site.parse("double.0.text"), CONFIG)
    with pytest.raises(SteeringError, match="at least 100000 rows"):
        of_recording(whole, SITE, with_(batch=100_000))


def test_k_is_at_most_n() -> None:
    with pytest.raises(SteeringError, match="k: expected at most 2, the number of latents"):
        trained(with_(latents=2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k = 8\nstep = 5\n", r"config\.toml: step: .*unknown key 'step'.*'steps'"),
        ("colour = 1\n", "unknown key 'colour'. Remove it"),
        ('k = "8"\n', r"config\.toml: k: expected a whole number"),
        ("rate = nan\n", "rate: expected a finite number"),
        ('activation = "gelu"\n', "activation: expected 'topk' or 'batchtopk' or 'jumprelu'"),
        ("held_out = 0.9\n", "held_out: expected a finite number, 0 to 0.5"),
        ("k = \n", r"config\.toml: expected lines such as"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(SteeringError, match=message):
        read_config(path)


def test_a_configuration_goes_through_a_file(tmp_path: Path) -> None:
    config = with_(activation="jumprelu", decay=0.5)
    (tmp_path / "config.toml").write_text(config.toml())
    assert read_config(tmp_path / "config.toml") == config
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    assert read_config(tmp_path / "config.json") == config
    (tmp_path / "part.toml").write_text("rate = 1\n")
    assert read_config(tmp_path / "part.toml") == TrainingConfig(rate=1.0)
    with pytest.raises(SteeringError, match=r"nowhere\.toml: expected a readable file"):
        read_config(tmp_path / "nowhere.toml")


def test_the_rate_rises_stays_and_falls() -> None:
    config = with_(steps=100, warmup=10, decay=0.2, rate=1e-3)
    rates = [config.rate_at(step, WIDTH) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[50] == rates[80] == 1e-3
    assert rates[90] == pytest.approx(5e-4)
    assert rates[99] == pytest.approx(5e-5)
    assert with_(rate=0.0, latents=2**14).top_rate(WIDTH) == 2e-4
