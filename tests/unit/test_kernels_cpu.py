"""The CPU path is the reference: the same sets to the last tie, values to rounding; and what both refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit import kernels
from steerdit.kernels import chunks, cpu, firing, keys, ranking, reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
seeds = st.integers(0, 10_000)
dtypes = st.sampled_from(DTYPES)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def tied(generator: torch.Generator, *shape: int) -> Tensor:
    """Few different numbers, so that the k-th largest has many equals, and zeros of either sign."""
    return normal(generator, *shape).round().clamp(-1, 1)


def negative(generator: torch.Generator, *shape: int) -> Tensor:
    return -normal(generator, *shape).abs() - 1


def mixed(generator: torch.Generator, *shape: int) -> Tensor:
    """Tokens of every kind in one chunk."""
    kinds = torch.stack([kind(generator, *shape) for kind in (normal, tied, negative)])
    return kinds[torch.arange(shape[-1]) % 3, ..., torch.arange(shape[-1])].movedim(0, -1)


KINDS = [normal, tied, negative, mixed]


def ranked(pre: Tensor, k: int, step: int) -> ranking.Ranking:
    """What is found in a matrix of which so many rows come at a time."""
    found = ranking.Ranking(k, *pre.shape, pre.dtype)
    for rows in pre.split(step):
        found.add(rows)
    return found


RANKED = st.sampled_from(sorted(keys.INTEGERS, key=str))


@given(
    seeds,
    st.sampled_from(KINDS),
    RANKED,
    st.integers(1, 2500),
    st.integers(0, 20),
    st.integers(1, 40),
    st.sampled_from([3, 100, 512, 1000, 4000]),
    st.sampled_from([100, 1 << 20]),
)
@settings(deadline=None, max_examples=150)
def test_the_largest_are_those_of_a_stable_sort(
    seed: int,
    kind: Callable[..., Tensor],
    dtype: torch.dtype,
    n: int,
    tokens: int,
    k: int,
    step: int,
    hot: int,
) -> None:
    pre = kind(torch.Generator().manual_seed(seed), n, tokens).to(dtype).contiguous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "HOT_BYTES", hot)
        found = ranked(pre, min(k, n), step)
    assert found.extremes.finite
    values, indices = found.largest()
    expected = pre.T.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(indices, expected.indices[:, : min(k, n)])
    assert torch.equal(values, expected.values[:, : min(k, n)])


@given(
    seeds,
    st.sampled_from(KINDS),
    RANKED,
    st.integers(0, 300),
    st.integers(0, 20),
    st.sampled_from([3, 100, 512]),
    st.sampled_from([100, 1 << 20]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([-torch.inf, -2.0, -1.0, -1e-4, -0.0, 0.0, 1e-9, 0.3, 1.0, 1e30, torch.inf, torch.nan]),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_what_is_above_its_threshold_is_what_torch_finds(
    seed: int, kind: Callable[..., Tensor], dtype: torch.dtype, n: int, tokens: int, step: int, hot: int,
    other: torch.dtype, value: float, single: bool,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    pre, theta = kind(generator, n, tokens).to(dtype).contiguous(), kind(generator, n).double()
    theta = torch.tensor(value) if single else theta.index_fill_(0, torch.arange(0, n, 3), value)
    theta = theta.to(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firing, "HOT_BYTES", hot)
        found = firing.Firing(theta, n, tokens, dtype)
        for rows in pre.split(step):
            found.add(rows)
    above = torch.gt(pre.T, theta)
    values, rows, counts = found.found()
    assert torch.equal(counts, above.sum(-1))
    assert torch.equal(rows, above.nonzero()[:, 1])
    assert torch.equal(values, pre.T[above])


@pytest.mark.parametrize("dtype", keys.INTEGERS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 1e-7, -1e-7])
@pytest.mark.parametrize("step", [500, 3000])
def test_where_all_are_equal_the_first_are_the_largest(dtype: torch.dtype, value: float, step: int) -> None:
    found = ranked(torch.full((3000, 40), value, dtype=dtype), 20, step)
    assert found.extremes.finite
    assert torch.equal(found.largest()[1], torch.arange(20).expand(40, 20))


def test_what_comes_later_wins_where_it_is_larger() -> None:
    pre = torch.arange(3000.0)[:, None].expand(3000, 30).contiguous() - 1500
    for step in (400, 3000):
        assert torch.equal(ranked(pre, 5, step).largest()[1], torch.arange(2999, 2994, -1).expand(30, 5))
    steps = (pre / 600).round()  # all that comes later is larger and ties
    expected = steps.T.sort(dim=-1, descending=True, stable=True).indices[:, :20]
    assert torch.equal(ranked(steps, 20, 600).largest()[1], expected)


def dictionary(
    seed: int, kind: Callable[..., Tensor], dtype: torch.dtype, tokens: int, latents: int, d: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x (tokens, d), rows (latents, d) and bias (latents)."""
    generator = torch.Generator().manual_seed(seed)
    x, rows, bias = kind(generator, tokens, d), kind(generator, latents, d), kind(generator, latents)
    return x.to(dtype), rows.to(dtype), bias.to(dtype)


def close(found: Tensor, expected: Tensor) -> bool:
    if not found.is_floating_point():
        return torch.equal(found, expected)
    tolerance = 4 * torch.finfo(found.dtype).eps
    scale = expected.abs().max().item() if expected.numel() else 1.0
    return torch.allclose(found.double(), expected.double(), rtol=tolerance, atol=tolerance * max(1.0, scale))


@given(
    seeds,
    st.sampled_from(KINDS),
    dtypes,
    st.integers(0, 30),
    st.integers(1, 600),
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from([1, 1000, chunks.CHUNK_BYTES]),
    st.sampled_from([7, 64, 4096]),
)
@settings(deadline=None, max_examples=80)
def test_encoders_and_decoder(
    seed: int,
    kind: Callable[..., Tensor],
    dtype: torch.dtype,
    tokens: int,
    latents: int,
    d: int,
    k: int,
    chunk: int,
    block: int,
) -> None:
    x, rows, bias = dictionary(seed, kind, dtype, tokens, latents, d)
    k = min(k, latents)
    selected = torch.randint(latents, (5,), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk)
        patch.setattr(chunks, "LATENTS_AT_ONCE", dict.fromkeys(chunks.LATENTS_AT_ONCE, block))
        found, expected = cpu.encode_topk(x, rows, bias, k), reference.encode_topk(x, rows, bias, k)
        assert all(torch.equal(*pair) for pair in zip(found, expected))
        assert torch.equal(
            cpu.topk_membership(x, rows, bias, selected, k),
            reference.topk_membership(x, rows, bias, selected, k),
        )
        for threshold in (bias.abs(), torch.tensor(0.0)):
            pair = zip(
                cpu.encode_threshold(x, rows, bias, threshold),
                reference.encode_threshold(x, rows, bias, threshold),
            )
            assert all(torch.equal(*both) for both in pair)
    values, indices = found
    decoded = cpu.decode(values, indices, rows, x.new_ones(d))
    assert close(decoded, reference.decode(values.double(), indices, rows.double(), torch.ones(d).double()))


@given(seeds, st.sampled_from(KINDS), st.integers(1, 200), st.integers(1, 20))
@settings(deadline=None)
def test_the_pre_activations_are_those_of_float64(
    seed: int, kind: Callable[..., Tensor], latents: int, d: int
) -> None:
    for dtype in DTYPES:
        x, rows, bias = dictionary(seed, kind, dtype, 5, latents, d)
        (pre,) = chunks.pre_activations(x, rows, bias)
        exact = torch.addmm(bias.double(), x.double(), rows.double().T)
        size = torch.addmm(bias.double().abs(), x.double().abs(), rows.double().abs().T)
        assert ((pre.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * size).all()


@given(seeds, dtypes, st.integers(0, 200), st.integers(0, 20), st.floats(-3, 3), st.booleans())
@settings(deadline=None, max_examples=50)
def test_steering(
    seed: int, dtype: torch.dtype, tokens: int, latents: int, strength: float, keep_norm: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, rows = normal(generator, tokens, 24).to(dtype), normal(generator, latents, 24).to(dtype)
    z = (normal(generator, tokens, latents).relu() * (normal(generator, tokens, 1) > 0)).to(dtype)
    found = cpu.steer_selected(x, z, rows, strength, keep_norm)
    expected = reference.steer_selected(x.double(), z.double(), rows.double(), strength, keep_norm)
    size = (z.double() @ rows.double().abs()).abs().max().item() * abs(strength) if z.numel() else 1.0
    assert torch.allclose(found.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps * (4 + size))
    quiet = ~(z != 0).any(-1)
    assert torch.equal(found[quiet], x[quiet])
    assert close(
        cpu.decode_selected(z, rows, rows.new_ones(24)),
        reference.decode_selected(z.double(), rows.double(), torch.ones(24).double()),
    )


def odd(tensor: Tensor, how: str) -> Tensor:
    """The same numbers, lying otherwise in memory."""
    if how == "strided":
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
    if how == "misaligned":
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    return tensor.T.contiguous().T if tensor.dim() == 2 else tensor.flip(0).flip(0)


@pytest.mark.parametrize("how", ["strided", "misaligned", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides_give_the_same(how: str, dtype: torch.dtype) -> None:
    x, rows, bias = dictionary(3, normal, dtype, 6, 300, 16)
    ox, orows, obias = (odd(tensor, how) for tensor in (x, rows, bias))
    theta = torch.rand(300)
    values, indices = kernels.encode_topk(x, rows, bias, 8)
    z = kernels.encode_selected(x, rows, bias, theta)
    pairs: list[tuple[Any, Any]] = [
        (kernels.encode_topk(ox, orows, obias, 8), (values, indices)),
        (
            kernels.encode_threshold(ox, orows, obias, odd(theta, how)),
            kernels.encode_threshold(x, rows, bias, theta),
        ),
        ([kernels.encode_selected(ox, orows, obias, odd(theta, how))], [z]),
        (
            [
                kernels.decode(
                    odd(values, how), odd(indices, how) if how != "strided" else indices, orows, ox[0]
                )
            ],
            [kernels.decode(values, indices, rows, x[0])],
        ),
        (
            [kernels.steer_selected(ox, odd(z, how), orows, -1.0, True)],
            [kernels.steer_selected(x, z, rows, -1.0, True)],
        ),
        ([kernels.add_direction(ox, orows[0], 2.0, True)], [kernels.add_direction(x, rows[0], 2.0, True)]),
        ([kernels.project_out(ox, orows[:2], 0.1)], [kernels.project_out(x, rows[:2], 0.1)]),
    ]
    for found, expected in pairs:
        assert all(close(*pair) for pair in zip(found, expected))


RANKING = {
    "encode_topk": lambda x, rows, bias: kernels.encode_topk(x, rows, bias, 2),
    "encode_threshold": lambda x, rows, bias: kernels.encode_threshold(x, rows, bias, torch.zeros(40)),
    "topk_membership": lambda x, rows, bias: kernels.topk_membership(x, rows, bias, torch.tensor([3]), 2),
}
PATHS = ["reference", "cpu"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("argument", ["x", "rows", "bias"])
def test_what_is_not_finite_is_refused_by_name(
    path: str, dtype: torch.dtype, name: str, value: float, argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", path)
    arguments = dict(zip(("x", "rows", "bias"), dictionary(1, normal, dtype, 3, 40, 4)))
    arguments[argument].view(-1)[1] = value
    with pytest.raises(ValueError, match=f"{argument} must be finite"):
        RANKING[name](**arguments)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", RANKING)
def test_an_overflow_is_refused(path: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", path)
    x, rows, bias = dictionary(1, normal, torch.float16, 3, 40, 4)
    with pytest.raises(
        ValueError, match=r"x and rows and bias are finite, but their result overflows torch.float16"
    ):
        RANKING[name](x * 1000, rows * 1000, bias)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("argument", ["values", "rows", "bias"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_decode_refuses_what_is_not_finite(
    path: str, argument: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", path)
    arguments = {"values": torch.ones(2, 3), "rows": torch.ones(5, 4), "bias": torch.ones(4)}
    arguments[argument].view(-1)[1] = value
    indices = torch.tensor([[0, 1, 2], [0, 0, 4]])
    with pytest.raises(ValueError, match=f"{argument} must be finite"):
        kernels.decode(indices=indices, **arguments)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("argument", ["x", "encoder", "bias"])
def test_elsewhere_what_is_not_finite_stays_visible(value: float, argument: str) -> None:
    x, encoder, bias = dictionary(2, normal, torch.float32, 3, 5, 4)
    arguments = {"x": x, "encoder": encoder, "bias": bias}
    arguments[argument].view(-1)[1] = value
    z = kernels.encode_selected(x, encoder, bias, torch.zeros(5))
    steered = kernels.encode_and_steer(x, encoder, bias, torch.zeros(5), encoder, 1.0)
    assert not z.isfinite().all()
    assert not steered.isfinite().all()
    assert not kernels.add_direction(torch.full((2, 4), value), torch.ones(4), 1.0).isfinite().any()
    assert not kernels.project_out(torch.full((2, 4), value), torch.eye(4)[:2]).isfinite().all()


X, ROWS, BIAS, THETA = torch.ones(2, 4), torch.ones(6, 4), torch.ones(6), torch.zeros(6)
Z, VALUES, INDICES = torch.ones(2, 6), torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.int64)
HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.encode_topk(X, ROWS, BIAS, 7), ValueError, "k must be from 1 to 6"),
        (lambda: kernels.encode_topk(X, ROWS, BIAS, 0), ValueError, "k must be from 1 to 6"),
        (lambda: kernels.encode_topk(X, ROWS[:0], BIAS[:0], 1), ValueError, "k must be from 1 to 0"),
        (lambda: kernels.encode_topk(X.to(HALF), ROWS, BIAS, 1), TypeError, "rows must have the dtype of x"),
        (lambda: kernels.encode_topk(X, ROWS, BIAS.to(HALF), 1), TypeError, "bias must have the dtype of x"),
        (lambda: kernels.encode_topk(X.long(), ROWS, BIAS, 1), TypeError, "x must be float32"),
        (
            lambda: kernels.encode_topk(X[0, 0], ROWS, BIAS, 1),
            ValueError,
            r"x must have the shape \(\.\.\., d\)",
        ),
        (lambda: kernels.encode_topk(X, ROWS.T, BIAS, 1), ValueError, r"rows must have the shape \(any, 4\)"),
        (lambda: kernels.encode_topk(X, ROWS, BIAS[:5], 1), ValueError, r"bias must have the shape \(6\)"),
        (
            lambda: kernels.encode_topk(X.to("meta"), ROWS, BIAS, 1),
            ValueError,
            "rows must be on the device of x",
        ),
        (
            lambda: kernels.encode_threshold(X, ROWS, BIAS, THETA, -1),
            ValueError,
            "capacity must be at least 0",
        ),
        (lambda: kernels.encode_threshold(X, ROWS, BIAS, THETA, 5), ValueError, "capacity 5 is too small"),
        (
            lambda: kernels.encode_threshold(X, ROWS, BIAS, THETA.long()),
            TypeError,
            "threshold must be of a float",
        ),
        (
            lambda: kernels.encode_selected(X, ROWS, BIAS, THETA[:2]),
            ValueError,
            r"threshold must have the shape",
        ),
        (
            lambda: kernels.topk_membership(X, ROWS, BIAS, torch.tensor([6]), 1),
            ValueError,
            "selected must be from 0 to 5, not 6 to 6",
        ),
        (
            lambda: kernels.topk_membership(X, ROWS, BIAS, torch.tensor([1.0]), 1),
            TypeError,
            "selected must be int64",
        ),
        (lambda: kernels.decode(VALUES, INDICES + 6, ROWS, X[0]), ValueError, "indices must be from 0 to 5"),
        (lambda: kernels.decode(VALUES, INDICES - 1, ROWS, X[0]), ValueError, "indices must be from 0 to 5"),
        (lambda: kernels.decode(VALUES, INDICES, ROWS[:0], X[0]), ValueError, "indices must be from 0 to -1"),
        (lambda: kernels.decode(VALUES, INDICES[:1], ROWS, X[0]), ValueError, "indices must have the shape"),
        (lambda: kernels.decode(VALUES, INDICES.double(), ROWS, X[0]), TypeError, "indices must be int64"),
        (
            lambda: kernels.decode(VALUES.to(HALF), INDICES, ROWS, X[0]),
            TypeError,
            "values must have the dtype",
        ),
        (lambda: kernels.decode(VALUES, INDICES, ROWS, BIAS), ValueError, r"bias must have the shape \(4\)"),
        (lambda: kernels.decode_selected(VALUES, ROWS, X[0]), ValueError, r"z must have the shape \(2, 6\)"),
        (lambda: kernels.steer_selected(X, Z[:1], ROWS, 1.0), ValueError, r"x must have the shape \(1, 4\)"),
        (
            lambda: kernels.steer_selected(X, Z[:, :2], ROWS, 1.0),
            ValueError,
            r"rows must have the shape \(2, 4\)",
        ),
        (lambda: kernels.steer_selected(X, Z.to(HALF), ROWS, 1.0), TypeError, "z must have the dtype of x"),
        (
            lambda: kernels.encode_and_steer(X, ROWS, BIAS, THETA, ROWS[:2], 1.0),
            ValueError,
            "directions must have the shape",
        ),
        (lambda: kernels.add_direction(X, ROWS, 1.0), ValueError, "direction must have the shape"),
        (lambda: kernels.project_out(X, ROWS[0]), ValueError, "basis must have the shape"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_latents_and_no_tokens(dtype: torch.dtype) -> None:
    x, rows, bias, none = X.to(dtype), ROWS.to(dtype), BIAS.to(dtype), torch.zeros(0, dtype=dtype)
    assert kernels.encode_selected(x, rows[:0], none, none).shape == (2, 0)
    assert kernels.encode_threshold(x, rows[:0], none, none).values.shape == (2, 0)
    assert kernels.topk_membership(x, rows, bias, INDICES[0, :0], 2).shape == (2, 0)
    assert torch.equal(kernels.steer_selected(x, x[:, :0], rows[:0], 1.0, True), x)
    assert torch.equal(kernels.encode_and_steer(x, rows[:0], none, none, rows[:0], 1.0, True), x)
    assert torch.equal(kernels.decode(x[:, :0], INDICES[:, :0], rows, x[0]), x)
    assert torch.equal(kernels.project_out(x, rows[:0]), x)
    values, indices = kernels.encode_topk(x[:0], rows, bias, 3)
    assert values.shape == indices.shape == (0, 3)
    assert kernels.decode(values, indices, rows, x[0]).shape == (0, 4)
    assert kernels.encode_topk(x[0], rows, bias, 3)[0].shape == (3,)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted in other units elsewhere")
@pytest.mark.parametrize("call", ["encode_topk(x, rows, bias, 8)", "encode_threshold(x, rows, bias, bias)"])
def test_pre_activations_exist_a_chunk_at_a_time(call: str) -> None:
    """In a process of its own: of 8,192 tokens and 16,384 latents all would be 537 MB."""
    program = f"""
import resource, torch
from steerdit.kernels import *
x, rows, bias = torch.ones(8192, 4), -torch.ones(16384, 4), torch.zeros(16384)
rows[:9] = torch.arange(1.0, 10)[:, None]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = {call}
assert int(found[0].ne(0).sum()) == found[0].shape[1] * 8192
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 200_000  # kilobytes


def test_the_number_of_threads_is_left_alone() -> None:
    before = torch.get_num_threads()
    kernels.decode(*kernels.encode_topk(X, ROWS, BIAS, 2), ROWS, X[0])
    assert torch.get_num_threads() == before


@given(
    seeds,
    st.sampled_from(KINDS),
    RANKED,
    st.integers(1, 700),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0]),
)
@settings(deadline=None, max_examples=80)
def test_a_ranking_sees_what_is_not_finite_wherever_it_is(
    seed: int, kind: Callable[..., Tensor], dtype: torch.dtype, n: int, tokens: int, k: int, value: float
) -> None:
    pre = kind(torch.Generator().manual_seed(seed), n, tokens).to(dtype).contiguous()
    pre[seed % n, seed % tokens] = value
    assert ranked(pre, min(k, n), 100).extremes.finite == bool(pre.isfinite().all())
