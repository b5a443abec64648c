"""One training step against plain torch: autograd in float64, sorting, torch's own Adam."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.training.dictionaries import activations, adam, objective
from steerdit.training.dictionaries.activations import BatchTopK, NotFinite, ranked, top_k
from steerdit.training.dictionaries.config import TrainingConfig
from steerdit.training.dictionaries.parameters import Parameters, geometric_median, start
from steerdit.training.dictionaries.sparse import Codes, by_latent, decode
from steerdit.training.dictionaries.trainer import Trainer

B, D, N, K = 40, 12, 50, 4
DEAD = torch.tensor([3, 4, 11, 30, 31, 32, 33, 34, 47])
WEIGHT = 0.3


def drawn(seed: int = 0) -> tuple[Parameters, Tensor]:
    """Parameters in float64, nothing of them zero, and centred activations."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    decoder = torch.nn.functional.normalize(normal(N, D), dim=1)
    parameters = Parameters(normal(N, D) / D**0.5, 0.1 * normal(N), decoder, 0.2 * normal(D), None, scale=1.0)
    return parameters, normal(B, D)


def blocks(gradient: objective.Gradient, size: int) -> dict[str, Tensor]:
    """The whole gradient, asked for in blocks of latents."""
    parts = [gradient.of(first, min(first + size, N)) for first in range(0, N, size)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {**whole, "decoder_bias": gradient.decoder_bias}


def sparse(mask: Tensor, values: Tensor) -> Codes:
    token, latent = mask.nonzero(as_tuple=True)
    return Codes(token, latent, values.detach()[token, latent])


def auxiliary_by_autograd(p: dict[str, Tensor], c: Tensor, missing: Tensor, variance: Tensor) -> Tensor:
    pre = (c @ p["encoder"].T + p["encoder_bias"])[:, DEAD].relu()
    values, index = pre.topk(D // 2, dim=1)
    z = torch.zeros_like(pre).scatter(1, index, values)
    share = min(1.0, len(DEAD) / (D // 2))
    return WEIGHT * share * (z @ p["decoder"][DEAD] + missing.detach()).square().sum() / variance.detach()


@pytest.mark.parametrize("with_auxiliary", [False, True])
@pytest.mark.parametrize("size", [N, 7])
def test_the_gradient_is_that_of_autograd(size: int, with_auxiliary: bool) -> None:
    parameters, x = drawn()
    p = {name: part.clone().requires_grad_() for name, part in parameters.trained().items()}
    c = x - p["decoder_bias"]
    pre = c @ p["encoder"].T + p["encoder_bias"]
    mask = torch.zeros(B, N, dtype=torch.bool).scatter(1, pre.topk(K, dim=1).indices, True) & (pre > 0)
    missing = (pre * mask) @ p["decoder"] - c
    variance = (x - x.mean(0)).square().sum()
    loss = missing.square().sum() / variance
    if with_auxiliary:
        loss = loss + auxiliary_by_autograd(p, c, missing, variance)
    loss.backward()

    plain, codes = c.detach(), sparse(mask, pre)
    found_missing = objective.missing_of(parameters, plain, codes)
    torch.testing.assert_close(found_missing, missing.detach())
    v = objective.variance_of(plain, activations.ALONE)
    assert v == pytest.approx(float(variance))
    extra = (
        objective.auxiliary_of(parameters, plain, found_missing, DEAD, v, WEIGHT) if with_auxiliary else None
    )
    found = blocks(objective.Gradient(parameters, plain, codes, found_missing, v, extra), size)
    assert found.keys() == p.keys()
    for name, part in p.items():
        torch.testing.assert_close(found[name], part.grad)


class Rectangle(torch.autograd.Function):
    """H(p − θ), and p · H(p − θ), with the paper's pseudo-derivatives (2407.14435, eqs. 11 and 12)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float, times: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width, ctx.times = width, times
        return (pre > threshold) * (pre if times else torch.ones_like(pre))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.width / 2) / ctx.width
        by_threshold = -(threshold if ctx.times else 1.0) * near * grad
        return (grad * (pre > threshold) if ctx.times else None), by_threshold.sum(0), None, None


@pytest.mark.parametrize("size", [N, 9])
def test_the_straight_through_gradient_is_that_of_the_paper(size: int) -> None:
    parameters, x = drawn(1)
    width, weight = 0.4, 0.7
    parameters.log_threshold = torch.linspace(-1.5, 0.2, N, dtype=torch.float64)
    p = {name: part.clone().requires_grad_() for name, part in parameters.trained().items()}
    threshold = p["log_threshold"].exp()
    c = x - p["decoder_bias"]
    pre = c @ p["encoder"].T + p["encoder_bias"]
    missing = Rectangle.apply(pre, threshold, width, True) @ p["decoder"] - c
    l0 = Rectangle.apply(pre, threshold, width, False).sum() / B
    variance = (x - x.mean(0)).square().sum()
    (missing.square().sum() / variance + weight * (l0 / K - 1) ** 2).backward()

    level = parameters.log_threshold.exp()
    codes = sparse(pre >= level - width / 2, pre)
    fired = activations.firing(codes, level)
    found_missing = objective.missing_of(parameters, c.detach(), fired)
    pull = 2 * weight * (len(fired.value) / B / K - 1) / K / B
    straight = objective.Straight(level, width, pull)
    gradient = objective.Gradient(
        parameters, c.detach(), codes, found_missing, float(variance), None, straight
    )
    found = blocks(gradient, size)
    for name, part in p.items():
        torch.testing.assert_close(found[name], part.grad)


def test_codes_decode_and_turn_over() -> None:
    draw = torch.Generator().manual_seed(2)
    dense = torch.randn(B, N, generator=draw) * (torch.rand(B, N, generator=draw) < 0.1)
    rows = torch.randn(N, D, generator=draw)
    codes = sparse(dense != 0, dense)
    torch.testing.assert_close(decode(codes, rows, B), dense @ rows)
    turned = by_latent(codes, N)
    for latent in range(N):
        at = slice(int(turned.start[latent]), int(turned.start[latent + 1]))
        assert torch.equal(turned.token[at], dense[:, latent].nonzero()[:, 0])
    assert torch.equal(decode(Codes(*(part[:0] for part in codes)), rows, 3), torch.zeros(3, D))


@given(
    st.lists(st.floats(2.0**-99, 2.0**99, width=32), min_size=1, max_size=200),
    st.integers(1, 300),
)
@settings(deadline=None, max_examples=50)
def test_ranked_is_what_sorting_finds(values: list[float], rank: int) -> None:
    tensor = torch.tensor(values)
    assert ranked(tensor, rank) == float(tensor.sort(descending=True).values[min(rank, len(values)) - 1])


def test_nothing_has_no_rank() -> None:
    assert ranked(torch.empty(0), 3) == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [None, 1e-3, 1e6])
def test_batch_top_k_keeps_the_largest_of_the_batch_whatever_it_remembers(
    last: float | None, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(3)
    c, rows, bias = (torch.randn(*shape, generator=draw).to(dtype) for shape in ((B, D), (N, D), (N,)))
    choose = BatchTopK(K)
    choose.last = last
    codes, bound = choose(c, rows, bias)
    pre = torch.addmm(bias[:, None], rows, c.T).T.float()
    expected = pre.flatten().topk(K * B).values[-1]
    assert bound == float(expected)
    assert torch.equal(torch.stack(codes[:2], 1), (pre >= expected).nonzero())
    assert torch.equal(codes.value, pre[codes.token, codes.latent])


def test_a_search_for_a_bound_ends_where_nothing_fires() -> None:
    rows, bias = torch.eye(4), torch.zeros(4)
    search = BatchTopK(2)
    silent, loud = -torch.ones(3, 4), torch.ones(3, 4)
    for _ in range(3):  # the second looks near what the first has found: nothing
        codes, bound = search(silent, rows, bias)
        assert (len(codes.value), bound) == (0, math.inf)
    codes, bound = search(loud, rows, bias)
    assert (len(codes.value), bound) == (12, 1.0)
    search.last = math.nan  # as of weights that are not finite
    assert search(loud, rows, bias)[1] == 1.0


def test_what_is_not_positive_never_fires() -> None:
    c, rows = torch.ones(5, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -3.0]])
    codes, bound = BatchTopK(2)(c, rows, torch.zeros(3))
    assert codes.latent.tolist() == [0] * 5
    assert bound == 1.0
    assert top_k(c, rows, torch.zeros(3), 2).latent.tolist() == [0] * 5
    none, bound = BatchTopK(2)(c, -rows.abs(), torch.zeros(3))
    assert len(none.value) == 0
    assert bound == math.inf


def test_top_k_refuses_what_is_not_finite() -> None:
    with pytest.raises(NotFinite):
        top_k(torch.tensor([[math.nan, 1.0]]), torch.ones(3, 2), torch.zeros(3), 1)


@pytest.mark.parametrize("fused", [True, False])
def test_adam_by_rows_is_adam(fused: bool) -> None:
    draw = torch.Generator().manual_seed(4)
    whole = torch.nn.Parameter(torch.randn(30, 5, generator=draw))
    ours = adam.Adam({"w": whole.detach().clone()})
    ours.fused = fused and ours.fused
    theirs = torch.optim.Adam([whole], lr=1e-2, foreach=False, fused=False)
    for step in range(5):
        whole.grad = torch.randn(30, 5, generator=draw)
        theirs.step()
        for first in range(0, 30, 8):
            rows = slice(first, min(first + 8, 30))
            ours.move("w", rows, whole.grad[rows], 1e-2, step)
    torch.testing.assert_close(ours.parameters["w"], whole.detach())


def test_the_geometric_median_has_the_least_distance() -> None:
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(5)) + 1
    rows[:20] += 50  # the mean follows them, the median hardly
    found = geometric_median(rows).double()
    difference = rows.double() - found
    pull = (difference / difference.norm(dim=1, keepdim=True)).sum(
        0
    )  # minus the gradient of the sum of distances
    assert float(pull.norm()) < 0.05
    assert float((found - 1).norm()) < 0.6
    line = torch.tensor([[0.0], [1.0], [10.0]])
    assert float(geometric_median(line, rounds=10_000)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("centre", ["median", "mean"])
def test_training_begins_at_the_centre_with_tied_rows_of_length_one(centre: str) -> None:
    rows = 3 * torch.randn(500, D, generator=torch.Generator().manual_seed(6)) + 7
    p = start(rows, N, K, 0, centre, torch.device("cpu"))
    torch.testing.assert_close(p.decoder.norm(dim=1), torch.ones(N))
    factor = float(p.encoder[0, 0] / p.decoder[0, 0])
    torch.testing.assert_close(p.encoder, factor * p.decoder)
    c = p.scale * rows - p.decoder_bias
    said = decode(top_k(c, p.encoder, p.encoder_bias, K), p.decoder, len(c))
    miss = [float((times * said - c).square().sum()) for times in (0.95, 1.0, 1.05)]
    assert miss[1] == min(miss)  # the factor is the best
    middle = geometric_median(rows) if centre == "median" else rows.mean(0)
    torch.testing.assert_close(p.decoder_bias, p.scale * middle)
    assert float((p.scale * rows - p.decoder_bias).norm(dim=1).mean()) == pytest.approx(D**0.5, rel=1e-4)
    assert torch.equal(start(rows, N, K, 0, centre, torch.device("cpu")).decoder, p.decoder)


@pytest.mark.parametrize("rows", [torch.ones(9, 3), torch.full((9, 3), math.nan)])
def test_training_cannot_begin_with_activations_that_say_nothing(rows: Tensor) -> None:
    with pytest.raises(ValueError, match="finite activations that differ"):
        start(rows, N, K, 0, "mean", torch.device("cpu"))


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
def test_a_step_keeps_decoder_rows_at_length_one_and_lowers_the_loss(activation: str) -> None:
    draw = torch.Generator().manual_seed(7)
    rows = torch.randn(400, D, generator=draw)
    config = TrainingConfig(latents=N, k=K, activation=activation, batch=400, steps=60, rate=1e-2, warmup=1)
    trainer = Trainer(config, start(rows, N, K, 0, "mean", torch.device("cpu")))
    first = trainer.step(rows)
    while trainer.done < 60:
        last = trainer.step(rows)
    torch.testing.assert_close(trainer.parameters.decoder.norm(dim=1), torch.ones(N))
    assert last.fvu < 0.5 * first.fvu
    judged = trainer.evaluate(rows)
    assert judged.fvu == pytest.approx(last.fvu, rel=0.15)
    assert judged.l0 == pytest.approx(K, rel=0.2)


@pytest.mark.parametrize("gradients", ["normalised", "plain"])
def test_steps_are_those_of_torchs_adam(gradients: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "steerdit.training.dictionaries.trainer.BLOCK_BYTES", 4 * D * 7
    )  # some latents at a time
    rows = torch.randn(B, D, generator=torch.Generator().manual_seed(10))
    config = TrainingConfig(
        latents=N, k=K, activation="topk", batch=B, steps=10, rate=1e-3, warmup=4, gradients=gradients
    )
    trainer = Trainer(config, start(rows, N, K, 0, "mean", torch.device("cpu")))
    scaled = rows.double() * trainer.parameters.scale
    p = {name: part.double().clone().requires_grad_() for name, part in trainer.parameters.trained().items()}
    reference = torch.optim.Adam(p.values(), lr=1.0)
    before = 0.0
    for step in range(6):
        trainer.step(rows)
        c = scaled - p["decoder_bias"]
        pre = c @ p["encoder"].T + p["encoder_bias"]
        codes = (
            torch.zeros(B, N, dtype=torch.float64).scatter(1, pre.topk(K, dim=1).indices, 1.0) * pre.relu()
        )
        variance = (scaled - scaled.mean(0)).square().sum()
        reference.zero_grad()
        ((codes @ p["decoder"] - c).square().sum() / variance).backward()
        with torch.no_grad():
            gradient, row = p["decoder"].grad, p["decoder"]
            assert gradient is not None
            gradient -= (gradient * row).sum(1, keepdim=True) * row
            lengths = [part.grad.norm() for part in p.values() if part.grad is not None]
            length = float(torch.stack(lengths).norm())
            if gradients == "normalised":
                assert float(trainer.length) == pytest.approx(length, rel=1e-4)
                for part in p.values():
                    assert part.grad is not None
                    part.grad /= before or length
            before = length
            reference.param_groups[0]["lr"] = config.rate_at(step, D)
            reference.step()
            row /= row.norm(dim=1, keepdim=True)
    for name, part in trainer.parameters.trained().items():
        torch.testing.assert_close(part.double(), p[name].detach(), rtol=1e-3, atol=1e-5)


def test_bfloat16_learns_as_float32_does() -> None:
    rows = torch.randn(400, D, generator=torch.Generator().manual_seed(8))
    found = {}
    for precision in ("float32", "bfloat16"):
        config = TrainingConfig(latents=N, k=K, batch=400, steps=60, rate=1e-2, warmup=1, precision=precision)
        trainer = Trainer(config, start(rows, N, K, 0, "mean", torch.device("cpu")))
        while trainer.done < 60:
            trainer.step(rows)
        found[precision] = trainer.evaluate(rows).fvu
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.03)


def test_dead_latents_come_back_by_the_auxiliary_loss() -> None:
    rows = torch.randn(400, D, generator=torch.Generator().manual_seed(9))
    dead = {}
    for weight in (0.0, 1 / 32):
        config = TrainingConfig(
            latents=N, k=1, activation="topk", batch=400, steps=150, rate=1e-2, warmup=1, dead_after=1200,
            auxiliary=weight,
        )  # fmt: skip
        p = start(rows, N, K, 0, "mean", torch.device("cpu"))
        p.encoder_bias[: N // 2] = -2.0  # positive at some tokens, the largest at none
        trainer = Trainer(config, p)
        while trainer.done < config.steps:
            trainer.step(rows)
        dead[weight] = trainer.dead()
    assert dead[0.0] >= 0.5
    assert dead[1 / 32] < dead[0.0]
