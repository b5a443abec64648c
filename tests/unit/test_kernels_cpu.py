"""The CPU path is the reference: the same sets to the last tie, values to rounding, whatever the memory layout."""

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
from steerdit.kernels import chunks, cpu, reference

from .operands import BIAS, DTYPES, INDICES, KINDS, ROWS, X, dictionary, dtypes, mixed, normal, seeds


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


@pytest.mark.parametrize(("tokens", "latents", "d"), [(5, 9, 10), (7, 100, 12)])
def test_blocks_that_do_not_fill_lines_of_memory_round_alike(tokens: int, latents: int, d: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "LATENTS_AT_ONCE", dict.fromkeys(chunks.LATENTS_AT_ONCE, 7))
        for seed in range(40):
            x, rows, bias = dictionary(seed, mixed, torch.float32, tokens, latents, d)
            found = cpu.encode_topk(x, rows, bias, latents)
            expected = reference.encode_topk(x, rows, bias, latents)
            assert all(torch.equal(*pair) for pair in zip(found, expected))
