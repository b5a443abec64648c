"""Decoder adaptation reaches the minimum of linear algebra, touches no encoder, resumes where it was stopped."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering import SteeringError
from steerdit.training.adaptation.domains import Masks, towards_safe
from steerdit.training.adaptation.steps import adapt
from steerdit.training.adaptation.terms import AdaptationConfig, Examples, solve, terms
from steerdit.training.recordings import Pairs

LATENTS, WIDTH, SCALE = 10, 6, 0.5


@dataclass
class SmallSAE:
    encoder: torch.Tensor
    encoder_bias: torch.Tensor
    threshold: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor
    input_scale: float = SCALE

    def encode(self, a: torch.Tensor) -> torch.Tensor:
        pre = (self.input_scale * a - self.decoder_bias) @ self.encoder.T + self.encoder_bias
        return pre * (pre > self.threshold)


def sae(seed: int = 0, dtype: torch.dtype = torch.float32) -> SmallSAE:
    g = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, WIDTH, generator=g), dim=1)
    bias = 0.1 * torch.randn(WIDTH, generator=g)
    parts = (rows, torch.full((LATENTS,), -0.1), torch.zeros(LATENTS), rows.clone(), bias)
    return SmallSAE(*(part.to(dtype) for part in parts))


def activations(n: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.3


class Batches:
    """Batches of rows in memory, in an order of each epoch."""

    def __init__(self, rows: torch.Tensor, batch: int) -> None:
        self.rows, self.batch = rows, batch

    def __call__(self, epoch: int, skip: int) -> Iterator[Examples]:
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(self.batch)[skip:]:
            yield Examples(self.rows[part])


def reference(
    source: SmallSAE,
    target: torch.Tensor,
    wanted: torch.Tensor,
    replay: torch.Tensor,
    config: AdaptationConfig,
) -> np.ndarray:
    """The minimum as one least-squares problem in float64: the terms' rows below each other."""
    z, zr = (source.encode(a.double()).numpy() for a in (target, replay))
    mu, nu = config.stability, config.weight
    blocks = [z / math.sqrt(len(z) * WIDTH)]
    sides = [wanted.double().numpy() / math.sqrt(len(z) * WIDTH)]
    if config.replays:
        blocks.append(zr * math.sqrt(mu / (len(zr) * WIDTH)))
        sides.append(np.zeros((len(zr), WIDTH)))
    size = float(source.decoder.double().square().sum())
    blocks.append(np.eye(LATENTS) * math.sqrt(mu * nu / size))
    sides.append(np.zeros((LATENTS, WIDTH)))
    return np.linalg.lstsq(np.vstack(blocks), np.vstack(sides), rcond=None)[0]


def missing(source: SmallSAE, a: torch.Tensor) -> torch.Tensor:
    return source.input_scale * a - source.decoder_bias - source.encode(a) @ source.decoder


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from([0.0, 0.3, 2.0]), st.sampled_from([0.0, 0.01, 5.0]), st.booleans()
)
def test_the_closed_form_is_least_squares(seed: int, stability: float, weight: float, replays: bool) -> None:
    config = AdaptationConfig(stability, weight, 0.2 if replays else 0.0)
    source, a, replay = sae(seed, torch.float64), activations(80, seed + 1), activations(50, seed + 2)
    pieces = [Examples(part.double()) for part in a.split(33)]
    source.encode = lambda x, plain=source.encode: plain(x.double())  # type: ignore[method-assign]
    found = solve(source, pieces, list(replay.double().split(20)), config)
    expected = reference(source, a, missing(source, a.double()), replay, config)
    np.testing.assert_allclose(found - source.decoder, expected, rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_autograd() -> None:
    source, config = sae(), AdaptationConfig(0.7, 0.5)
    g = torch.Generator().manual_seed(9)
    change = 0.1 * torch.randn(LATENTS, WIDTH, generator=g)
    target, replay = Examples(activations(40, 1)), activations(20, 2)
    losses, gradient = terms(source, change, target, replay, config)
    free = change.clone().requires_grad_()
    z, zr = source.encode(target.inputs), source.encode(replay)
    off = missing(source, target.inputs) - z @ free
    loss = off.square().mean() + 0.7 * (
        (zr @ free).square().mean() + 0.5 * free.square().sum() / source.decoder.square().sum()
    )
    loss.backward()
    assert losses.total == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(gradient, free.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "off",
    [{}, {"stability": 0.0}, {"replay": 0.0}, {"weight": 0.0}],
    ids=["all", "stability", "replay", "weight"],
)
def test_steps_lead_to_the_closed_form_with_any_term_switched_off(off: dict[str, float]) -> None:
    config = replace(AdaptationConfig(steps=600, batch=200, rate=0.01), **off)
    source, a, replay = sae(), activations(160, 1), activations(40, 2)
    found = adapt(source, Batches(a, 160), Batches(replay, 40), config)
    solved = solve(source, [Examples(a)], [replay], config)
    best, _ = terms(source, solved - source.decoder, Examples(a), replay, config)
    assert found.after.total == pytest.approx(best.total, rel=1e-3)
    assert found.after.total < found.before.total
    assert (found.before.replay, found.before.weight) == (0, 0)
    if off in ({"stability": 0.0}, {"replay": 0.0}):
        assert found.after.replay == 0


def test_only_the_rows_that_may_change_do() -> None:
    config = AdaptationConfig(steps=20, batch=50)
    source, a = sae(), activations(100, 1)
    kept = [i for i in range(LATENTS) if i not in (2, 5)]
    found = adapt(source, Batches(a, 40), Batches(a, 10), config, latents=[5, 2])
    solved = solve(source, [Examples(a)], [a], config, latents=[5, 2])
    for decoder in (found.decoder, solved):
        assert torch.equal(decoder[kept], source.decoder[kept])
        assert not torch.equal(decoder[2], source.decoder[2])
    for wrong in ([LATENTS], []):
        with pytest.raises(SteeringError, match="adaptation: latents"):
            adapt(source, Batches(a, 40), Batches(a, 10), config, latents=wrong)


def test_pairs_teach_unsafe_latents_what_the_safe_side_says() -> None:
    source, unsafe = sae(), activations(300, 1)
    truth = 0.3 * torch.randn(LATENTS, WIDTH, generator=torch.Generator().manual_seed(5))
    safe = unsafe + source.encode(unsafe) @ truth / SCALE
    none = torch.zeros(300)
    stream = towards_safe(Pairs(unsafe, safe, none, none, none), 128, seed=3)
    assert [len(batch.inputs) for batch in stream(0, 1)] == [128, 44]
    assert not torch.equal(next(stream(0, 0)).inputs, next(stream(1, 0)).inputs)
    solved = solve(source, stream(0, 0), [], AdaptationConfig(stability=0.0))
    torch.testing.assert_close(solved - source.decoder, truth, rtol=1e-3, atol=1e-3)
    empty = unsafe[:0]
    with pytest.raises(SteeringError, match="recording: pairs"):
        towards_safe(Pairs(empty, empty, none[:0], none[:0], none[:0]), 128)


def test_a_category_teaches_only_the_latents_that_its_gate_lets_through() -> None:
    source, unsafe = sae(), activations(600, 1)
    truth = 0.3 * torch.randn(LATENTS, WIDTH, generator=torch.Generator().manual_seed(5))
    member = torch.zeros(2, LATENTS, dtype=torch.bool)
    member[0, :6], member[1, 4:] = True, True  # two of both
    kind = torch.arange(600) % 2
    safe = unsafe + (source.encode(unsafe) * member[kind]) @ truth / SCALE
    none = torch.zeros(600)
    stream = towards_safe(Pairs(unsafe, safe, none, none, none), 128, seed=3, masks=Masks(kind, member))
    solved = solve(source, stream(0, 0), [], AdaptationConfig(stability=0.0))
    torch.testing.assert_close(solved - source.decoder, truth, rtol=1e-3, atol=1e-3)
    plain = towards_safe(Pairs(unsafe, safe, none, none, none), 128, seed=3)
    solved = solve(source, plain(0, 0), [], AdaptationConfig(stability=0.0))
    assert not torch.allclose(solved - source.decoder, truth, rtol=0.1, atol=0.1)


def test_a_stopped_adaptation_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = AdaptationConfig(steps=40, batch=50)
    streams = Batches(activations(130, 1), 40), Batches(activations(70, 2), 10)
    whole = adapt(sae(), *streams, config)

    def stop(step: int, losses: object) -> None:
        if step in stops:
            stops.remove(step)
            raise KeyboardInterrupt

    stops = [3, 17, 29]
    while stops:
        with pytest.raises(KeyboardInterrupt):
            adapt(sae(), *streams, config, folder=tmp_path, every=5, data="here", progress=stop)
    with torch.inference_mode():
        resumed = adapt(sae(), *streams, config, folder=tmp_path, every=5, data="here")
    assert torch.equal(resumed.decoder, whole.decoder)
    assert resumed.after == whole.after
    with pytest.raises(SteeringError, match="another training"):
        adapt(sae(), *streams, config, folder=tmp_path, data="elsewhere")
    with pytest.raises(SteeringError, match="another training"):
        adapt(sae(), *streams, replace(config, stability=0.5), folder=tmp_path, data="here")


def test_a_killed_adaptation_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time, importlib.util
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("case", sys.argv[1])
        case = importlib.util.module_from_spec(spec)
        sys.modules["case"] = case
        spec.loader.exec_module(case)
        def slow(step, losses):
            if step == 8:
                print("ready", flush=True)
            if step >= 8:
                time.sleep(0.02)
        case.adapt(case.sae(), case.Batches(case.activations(130, 1), 40), case.Batches(case.activations(70, 2), 10),
                   case.AdaptationConfig(steps=300, batch=50), folder=Path(sys.argv[2]), every=1, progress=slow)
    """)
    command = [sys.executable, "-c", program, __file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    config = AdaptationConfig(steps=300, batch=50)
    streams = Batches(activations(130, 1), 40), Batches(activations(70, 2), 10)
    steps: list[int] = []
    resumed = adapt(
        sae(), *streams, config, folder=tmp_path, every=1000, progress=lambda step, _: steps.append(step)
    )
    assert steps[0] > 8
    assert torch.equal(resumed.decoder, adapt(sae(), *streams, config).decoder)


def test_an_encoder_that_changes_is_noticed() -> None:
    source, a = sae(), activations(100, 1)

    def drift(step: int, losses: object) -> None:
        source.encoder[3, 3] += 1e-7

    with pytest.raises(SteeringError, match="adaptation: encoder: expected the encoder as it was"):
        adapt(source, Batches(a, 40), None, AdaptationConfig(replay=0, steps=2, batch=50), progress=drift)


def test_what_is_not_finite_is_refused() -> None:
    a = activations(100, 1)
    broken = a.clone()
    broken[50, 2] = torch.nan
    config = AdaptationConfig(steps=5, batch=50)
    with pytest.raises(SteeringError, match=r"target activations.*1 of"):
        adapt(sae(), Batches(broken, 100), Batches(a, 10), config)
    with pytest.raises(SteeringError, match="source activations"):
        adapt(sae(), Batches(a, 40), Batches(broken, 100), config)
    with pytest.raises(SteeringError, match=r"adaptation: step \d: expected a finite loss"):
        adapt(sae(), Batches(a, 40), Batches(a, 10), replace(config, rate=1e30))


def test_missing_data_and_settings_that_cannot_be_are_refused() -> None:
    a = activations(100, 1)
    with pytest.raises(SteeringError, match="recording of the source domain"):
        adapt(sae(), Batches(a, 40), None)
    with pytest.raises(SteeringError, match="at least one row"):
        adapt(sae(), Batches(a[:0], 40), None, AdaptationConfig(replay=0))
    with pytest.raises(SteeringError, match="at least one row"):
        solve(sae(), [], [])
    for latents in ([], [999], [-1]):
        with pytest.raises(SteeringError, match=r"adaptation: latents: expected some of 0 to \d+"):
            solve(sae(), [Examples(a)], [], AdaptationConfig(replay=0), latents)
    for wrong in ({"stability": -1.0}, {"replay": 1.0}, {"steps": 0}, {"rate": math.inf}, {"batch": 1}):
        with pytest.raises(SteeringError, match=f"adaptation: {next(iter(wrong))}"):
            AdaptationConfig(**wrong)  # type: ignore[arg-type]
