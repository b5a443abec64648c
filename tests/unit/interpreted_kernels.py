"""The GPU's kernels in triton's interpreter; test_triton_interpreter.py runs this file with TRITON_INTERPRET=1."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime import interpreter

from steerdit.benchmarks.kernels import edges
from steerdit.benchmarks.kernels.random_calls import DTYPES, fault
from steerdit.kernels import reference
from steerdit.kernels import triton as kernels
from steerdit.kernels.triton import bytes as model
from steerdit.kernels.triton import configs, dictionaries, launch, trial
from steerdit.kernels.triton.row_topk import row_topk_kernel

CALLS = int(os.environ.get("STEERDIT_CALLS", "120"))
quick = settings(deadline=None, max_examples=10)
seeds = st.integers(0, 2**31)


@pytest.mark.parametrize("first", range(0, CALLS, 40))
def test_random_calls_are_the_reference(first: int) -> None:
    faults = [fault(kernels, number) for number in range(first, min(first + 40, CALLS))]
    assert not any(faults), "\n".join(filter(None, faults))


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_calls_at_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_KERNELS", "triton")
    assert not [said for case in edges.cases("triton") if (said := edges.said(case))]


def rows_of(seed: int, dtype: torch.dtype, count: int, latents: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "ties":
        return torch.randint(-2, 3, (count, latents), generator=generator).to(dtype)
    numbers = torch.randn(count, latents, generator=generator)
    if kind == "negative":
        numbers = -numbers.abs() - 0.01
    if kind == "zeros":
        numbers = torch.where(numbers > 0, 0.0, -0.0)
    return numbers.to(dtype)


@given(
    seeds,
    st.sampled_from(DTYPES),
    st.sampled_from(("random", "ties", "negative", "zeros")),
    st.integers(40, 900),
    st.integers(1, 32),
    st.booleans(),
)
@quick
def test_both_levels_of_the_selection_are_a_stable_sort(
    seed: int, dtype: torch.dtype, kind: str, latents: int, k: int, long: bool
) -> None:
    pre = rows_of(seed, dtype, 2, latents, kind)
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    values, indices = torch.empty(2, k, dtype=dtype), torch.empty(2, k, dtype=torch.int64)
    for groups, span, passes in ((1024, 1, 1), (256, 1, 4), (64, 4, 4), (32, 2, 16)):
        if -(-latents // span) < k:
            continue  # fewer groups than the selection wants; no shipped configuration has so few
        row_topk_kernel[(2,)](
            pre.view(bits), values.view(bits), indices, latents, k,
            K=32, GROUPS=groups, SPAN=span, PASSES=passes, LONG=long or dtype.itemsize > 2, RELU=False,
        )  # fmt: skip
        expected, order = pre.sort(dim=-1, descending=True, stable=True)
        assert torch.equal(values, expected[:, :k])
        assert torch.equal(indices, order[:, :k])


@pytest.mark.parametrize("latents", configs.TOPK_LATENTS)
def test_every_class_has_enough_groups_for_the_largest_k(latents: int) -> None:
    below = max((size for size in configs.TOPK_LATENTS if size < latents), default=0)
    groups, span, passes = configs.TOPK_LATENTS[latents]
    assert groups * span * passes >= latents
    if span * passes > 1:
        assert min(groups, (below + 1) // span) >= max(configs.TOPK_K)


def test_the_last_latent_of_a_short_key_and_the_first_of_a_long_one() -> None:
    for latents in (65_536, 65_537):
        pre = torch.full((1, latents), -1.0, dtype=torch.bfloat16)
        pre[0, -1], pre[0, 7] = 3, 3
        pre = torch.nn.functional.pad(pre, (0, -latents % configs.WHOLE), value=-torch.inf)
        values, indices = torch.empty(1, 3, dtype=torch.bfloat16), torch.empty(1, 3, dtype=torch.int64)
        dictionaries.select_topk(pre, 3, values, indices)
        assert indices.tolist() == [[7, latents - 1, 0]]
        assert values.tolist() == [[3, 3, 0]]


@given(seeds)
@quick
def test_bfloat16_is_rounded_to_nearest(seed: int) -> None:
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)).bfloat16()
    direction = torch.randn(50, generator=torch.Generator().manual_seed(seed + 1)).bfloat16()
    found = kernels.add_direction(x, direction, 0.37)
    assert torch.equal(found, (x.float() + torch.tensor(0.37) * direction.float()).bfloat16())


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_in_the_activation_stays_visible(dtype: torch.dtype, keep_norm: bool) -> None:
    x = torch.ones(3, 20, dtype=dtype)
    x[1, 4] = torch.nan
    rows, bias = torch.ones(2, 20, dtype=dtype), torch.zeros(2, dtype=dtype)
    found = kernels.encode_and_steer(x, rows, bias, torch.tensor(100.0), rows, 1.0, keep_norm)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], x[[0, 2]])


@pytest.mark.parametrize("name", ["x", "rows", "bias"])
def test_encoders_that_rank_refuse_what_has_no_rank(name: str) -> None:
    given_ = {"x": torch.ones(2, 4), "rows": torch.ones(5, 4), "bias": torch.zeros(5)}
    given_[name].view(-1)[1] = torch.nan
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (kernels.encode_topk, (2,)),
        (kernels.encode_threshold, (torch.tensor(0.0),)),
        (kernels.topk_membership, (torch.tensor([1]), 2)),
    ]
    for call, rest in calls:
        with pytest.raises(ValueError, match=name):
            call(*given_.values(), *rest)


def test_a_capacity_that_is_too_small_is_an_error() -> None:
    x, rows, bias = torch.ones(2, 4), torch.ones(5, 4), torch.zeros(5)
    with pytest.raises(ValueError, match="capacity 4 is too small: 5 latents"):
        kernels.encode_threshold(x, rows, bias, torch.tensor(0.0), capacity=4)


def test_a_threshold_in_double_precision_is_not_rounded_up() -> None:
    above, below = 1 + 2.0**-30, 1 - 2.0**-30
    x, rows = torch.ones(1, 1), torch.ones(2, 1)
    theta = torch.tensor([above, below], dtype=torch.float64)
    found = kernels.encode_threshold(x, rows, torch.zeros(2), theta)
    assert torch.equal(found.indices, reference.encode_threshold(x, rows, torch.zeros(2), theta).indices)
    assert found.indices.tolist() == [[1]]


def test_what_the_kernels_do_not_take_is_said() -> None:
    cpu = torch.device("cpu")
    assert kernels.refusal("encode_topk", cpu, torch.bfloat16, latents=24_576, k=32) is None
    assert "129" in (kernels.refusal("encode_topk", cpu, torch.bfloat16, latents=24_576, k=129) or "")
    assert "float64" in (kernels.refusal("decode", cpu, torch.float64) or "")
    assert "257" in (kernels.refusal("steer_selected", cpu, torch.float16, latents=257) or "")
    assert "129" in (kernels.refusal("encode_and_steer", cpu, torch.float32, latents=129) or "")
    assert "8193" in (kernels.refusal("add_direction", cpu, torch.float32, width=8193) or "")
    assert launch.INTERPRETED


def test_a_machine_that_cannot_run_kernels_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.\nSet CC.")

    trial.why_not_here.cache_clear()
    monkeypatch.setattr(trial, "add_direction", fails)
    said = kernels.refusal("decode", torch.device("cpu"), torch.float32)
    trial.why_not_here.cache_clear()
    assert said == "a kernel failed on trial: RuntimeError: Failed to find C compiler."


class Touched:
    """The addresses that kernels loaded from and stored to."""

    def __init__(self) -> None:
        self.lanes: list[tuple[int, np.ndarray]] = []

    def add(self, pointers: Any, mask: Any) -> None:
        chosen = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        self.lanes.append((pointers.get_element_ty().primitive_bitwidth // 8, chosen.reshape(-1)))

    @property
    def requested(self) -> int:
        return sum(size * len(lanes) for size, lanes in self.lanes)

    @property
    def distinct(self) -> int:
        sizes = {size for size, _ in self.lanes}
        groups = [[lanes for other, lanes in self.lanes if other == size] for size in sizes]
        return sum(size * len(np.unique(np.concatenate(group))) for size, group in zip(sizes, groups))


@contextmanager
def touched(monkeypatch: pytest.MonkeyPatch) -> Generator[Touched]:
    """Listens to the interpreter's loads and stores."""
    heard, builder = Touched(), interpreter.interpreter_builder
    load, store = builder.create_masked_load, builder.create_masked_store

    def heard_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        heard.add(pointers, mask)
        return load(pointers, mask, *rest)

    def heard_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        heard.add(pointers, mask)
        return store(pointers, value, mask, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(builder, "create_masked_load", heard_load)
        patch.setattr(builder, "create_masked_store", heard_store)
        yield heard


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize(("dtype", "latents"), [(torch.bfloat16, 5), (torch.float32, 20)])
def test_the_bytes_of_steering(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, latents: int, encoded: bool, keep_norm: bool
) -> None:
    tokens, width = 70, 208
    x, rows = torch.ones(tokens, width, dtype=dtype), torch.ones(latents, width, dtype=dtype)
    bias, z = torch.zeros(latents, dtype=dtype), torch.ones(tokens, latents, dtype=dtype)
    with touched(monkeypatch) as heard:
        if encoded:
            directions = rows.clone()
            kernels.encode_and_steer(x, rows, bias, torch.tensor(0.0), directions, 0.5, keep_norm)
        else:
            kernels.steer_selected(x, z, rows, 0.5, keep_norm)
    config = configs.steer(80, dtype.itemsize, latents)
    assert config is not None
    said = model.steer(
        config, tokens=tokens, width=width, latents=latents, itemsize=dtype.itemsize, encoded=encoded,
        keep_norm=keep_norm,
    )  # fmt: skip
    assert heard.requested == said.requested
    assert heard.distinct == said.distinct
    assert said.distinct <= 1.01 * said.minimum


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("encoded", [True, False])
def test_steering_in_parts_is_steering(
    monkeypatch: pytest.MonkeyPatch, encoded: bool, keep_norm: bool
) -> None:
    """As where the cache holds less than all tokens: S = 5 codes of later parts lie at addresses of their own."""
    generator = torch.Generator().manual_seed(4)
    x, rows = torch.randn(70, 48, generator=generator), torch.randn(5, 48, generator=generator)
    bias, threshold = torch.randn(5, generator=generator), torch.tensor(0.5)

    def steer() -> torch.Tensor:
        if encoded:
            return kernels.encode_and_steer(x, rows, bias, threshold, rows, -0.7, keep_norm)
        z = kernels.encode_selected(x, rows, bias, threshold)
        return kernels.steer_selected(x, z, rows, -0.7, keep_norm)

    whole = steer()
    asked: list[int | None] = []

    def at_once(*_: object) -> int:
        asked.append(32)
        return 32

    monkeypatch.setattr(configs, "steered_at_once", at_once)
    assert torch.equal(steer(), whole)
    assert asked == [32]


def test_a_launch_holds_what_the_cache_holds_or_everything() -> None:
    config = configs.steer(90, 4, 16)
    assert config is not None
    assert configs.steered_at_once(config, 3072, 4, 50 << 20) == 2560
    assert configs.steered_at_once(config, 3072, 4, 6 << 20) is None


def test_the_bytes_of_the_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, width, latents, k = 3, 32, 4800, 20
    generator = torch.Generator().manual_seed(1)
    pre = torch.randn(tokens, latents, generator=generator).bfloat16()
    values, indices = pre.new_empty(tokens, k), torch.empty(tokens, k, dtype=torch.int64)
    with touched(monkeypatch) as heard:
        dictionaries.select_topk(pre, k, values, indices)
    config = configs.row_topk(80, 2, latents, k)
    assert config is not None
    said = model.row_topk(config, tokens=tokens, latents=latents, k=k, itemsize=2)
    assert heard.distinct == said.distinct
    assert said.distinct <= heard.requested <= said.requested

    limit = pre.float().sort(dim=-1).values[0, -9].expand(latents).contiguous()
    with touched(monkeypatch) as heard:
        found = dictionaries.select_over(pre, limit, 40)
    assert 0 < int(found.counts.max()) <= 40
    said = model.compact(tokens=tokens, latents=latents, capacity=40, itemsize=2)
    assert (heard.requested, heard.distinct) == (said.requested, said.distinct)

    rows, bias = torch.randn(latents, width, generator=generator).bfloat16(), torch.zeros(width).bfloat16()
    with touched(monkeypatch) as heard:
        kernels.decode(values, torch.arange(tokens * k).view(tokens, k), rows, bias)
    said = model.gather(configs.GATHER[2], tokens=tokens, k=k, width=width, latents=latents, itemsize=2)
    assert (heard.requested, heard.distinct) == (said.requested, said.distinct)

    x, direction = torch.ones(5, width), torch.ones(width)
    with touched(monkeypatch) as heard:
        kernels.add_direction(x, direction, 1.0)
    said = model.add_direction(tokens=5, width=width, itemsize=4)
    assert (heard.requested, heard.distinct) == (said.requested, said.distinct)

    selected = torch.arange(20)
    x, rows, bias = torch.ones(5, 4), torch.ones(64, 4), torch.zeros(64)
    with touched(monkeypatch) as heard:
        kernels.topk_membership(x, rows, bias, selected, 3)
    config = configs.membership(4, 64)
    said = model.membership(config, tokens=5, latents=64, probes=20, itemsize=4)
    assert (heard.requested, heard.distinct) == (said.requested, said.distinct)
