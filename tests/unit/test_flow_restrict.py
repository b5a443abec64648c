"""Restricted attention is exact: held against the whole matrix in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.groups import Flow, Group, Weights, groups_of
from steerdit.steering.flow.localise import around
from steerdit.steering.flow.restrict import Way, restricted

from . import flows

LAMBDAS = st.sampled_from([0.0, 0.05, 0.2, 0.4, 1.0, 1.05, 3.0])
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    """A layout of any size with regions for its pictures, and everything else that may vary."""
    size = draw(SIZES)
    where = flows.layout(
        draw(st.integers(0, 4)), size, draw(st.lists(SIZES, max_size=2)), gap=draw(st.integers(0, 2))
    )
    length = where.tokens + draw(st.integers(0, 3))
    rows, shared = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    heads, width = shared * draw(st.integers(1, 3)), draw(st.sampled_from([4, 6, 8]))
    seed = draw(st.integers(0, 2**31))
    q, k, v = flows.qkv(seed, rows, heads, length, width, shared)
    g = torch.Generator().manual_seed(seed)
    weights = Weights(draw(LAMBDAS), draw(LAMBDAS), draw(LAMBDAS.filter(bool)))
    share = draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    regions = [around(torch.rand(size, generator=g) < share, draw(st.integers(0, 1))) for _ in range(rows)]
    flow = draw(st.sampled_from(Flow))
    groups = [groups_of(where, region, weights, flow, length) for region in regions]
    kind = draw(st.sampled_from(["none", "matrix", "keys", "by row", "by head", "bool"]))
    shapes = {
        "matrix": (length, length), "keys": (rows, 1, length), "by row": (rows, length, length),
        "by head": (1, heads, length, length), "bool": (rows, 1, 1, length),
    }  # fmt: skip
    mask: Tensor | None = None
    if kind == "bool":
        mask = torch.rand(shapes[kind], generator=g) < 0.7
        mask[..., where.image.start] = True  # some key is left
    elif kind != "none":
        mask = torch.randn(shapes[kind], generator=g)
    chosen = draw(st.none() | st.lists(st.integers(0, heads - 1), min_size=1, unique=True))
    return {
        "qkv": (q, k, v), "groups": groups, "mask": mask, "heads": chosen,
        "renormalise": draw(st.booleans()), "way": draw(st.sampled_from(Way)),
        "whole_calls": draw(st.booleans()), "plain": draw(st.booleans()),
        "cached": draw(st.sampled_from([1, 4 * length * width, 2**20])),
    }  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(cases())
def test_it_is_the_softmax_times_lambda(case: dict[str, object]) -> None:
    q, k, v = case["qkv"]  # type: ignore[misc]
    groups: Sequence[Sequence[Group]] = case["groups"]  # type: ignore[assignment]
    mask, heads, renormalise = case["mask"], case["heads"], case["renormalise"]
    plain = flows.attend(q, k, v, mask) if case["plain"] else None
    with pytest.MonkeyPatch.context() as patch:  # all heads at a time, or few
        patch.setattr("steerdit.steering.flow.restrict.CACHED", case["cached"])
        found = restricted(
            flows.attend, q, k, v, groups, renormalise=renormalise, mask=mask, heads=heads, plain=plain,
            whole_calls=case["whole_calls"], way=case["way"],
        )  # fmt: skip
    factors = flows.factors_of(groups, q.shape[2])
    expected = flows.dense(q, k, v, factors, renormalise=renormalise, mask=mask, heads=heads)
    known = expected.isfinite()  # where λ = 0 and a mask leave a query no key at all, nothing is defined
    torch.testing.assert_close(found.double()[known], expected[known], rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_rows_without_groups_keep_their_bits(case: dict[str, object]) -> None:
    q, k, v = case["qkv"]  # type: ignore[misc]
    plain = flows.attend(q, k, v, case["mask"])  # type: ignore[arg-type]
    groups: list[Sequence[Group]] = [(), *case["groups"][1:]]  # type: ignore[index]
    found = restricted(flows.attend, q, k, v, groups, mask=case["mask"], way=case["way"])  # type: ignore[arg-type]
    assert torch.equal(found[0], plain[0])
    unrestricted = torch.ones(q.shape[2], dtype=torch.bool)
    later = restricted(flows.attend, q, k, v, case["groups"], mask=case["mask"], plain=plain)  # type: ignore[arg-type]
    for group in case["groups"][0]:  # type: ignore[index]
        unrestricted[group.rows] = False
    assert torch.equal(later[0, unrestricted], plain[0, unrestricted])


def test_no_groups_give_the_very_tensor() -> None:
    q, k, v = flows.qkv(0, 2, 2, 9, 4)
    known: list[Tensor] = []

    def remembering(*arguments: Tensor) -> Tensor:
        known.append(flows.attend(*arguments))  # type: ignore[arg-type]
        return known[-1]

    assert restricted(remembering, q, k, v, [(), ()]) is known[0]
    assert restricted(remembering, q, k, v, [(), ()], plain=known[0]) is known[0]
    assert len(known) == 1


def test_what_attend_returned_is_not_written_to() -> None:
    q, k, v = flows.qkv(0, 1, 2, 9, 4)
    plain = flows.attend(q, k, v, None)
    before = plain.clone()
    group = Group(torch.tensor([1, 2]), torch.full((9,), 0.5).index_fill(0, torch.tensor([0]), 0.0))
    for heads in (None, [0]):
        found = restricted(flows.attend, q, k, v, [[group]], plain=plain, heads=heads)
        assert torch.equal(plain, before)
        assert not torch.equal(found, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", list(Way))
def test_coarse_dtypes_lose_no_more_than_plain_attention_does(dtype: torch.dtype, way: Way) -> None:
    where = flows.layout(40, (12, 12))
    core = torch.zeros(12, 12, dtype=torch.bool)
    core[3:7, 4:9] = True
    groups = [groups_of(where, around(core, 1), Weights(), Flow.CONTENT, where.tokens)]
    q, k, v = flows.qkv(1, 1, 4, where.tokens, 128, dtype=dtype)
    exact = flows.dense(q, k, v, flows.factors_of(groups, where.tokens))
    error = (restricted(flows.attend, q, k, v, groups, way=way).double() - exact).abs().max()
    ones = torch.ones(1, where.tokens, where.tokens)
    usual = (flows.attend(q, k, v, None).double() - flows.dense(q, k, v, ones)).abs().max()
    assert error <= 2.5 * usual


def test_the_whole_matrix_is_never_built() -> None:
    where = flows.layout(8, (30, 40), [(30, 40)])
    core = torch.zeros(30, 40, dtype=torch.bool)
    core[:4] = True
    q, k, v = flows.qkv(2, 1, 2, where.tokens, 8)
    sizes: list[int] = []

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if isinstance(found, Tensor):
                sizes.append(found.untyped_storage().nbytes() // found.element_size())
            return found

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return q.new_zeros(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])  # what is inside is the host's

    for way in Way:
        for flow in Flow:
            for renormalise in (True, False):
                groups = [groups_of(where, around(core, 1), Weights(), flow, where.tokens)]
                with Watching():
                    restricted(attend, q, k, v, groups, way=way, renormalise=renormalise)
    assert max(sizes) < where.tokens**2 / 10


# --- groups ---------------------------------------------------------------------------------------------------------


def by_pairs(where: object, core: Tensor, ring: Tensor, weights: Weights, flow: Flow, length: int) -> Tensor:
    """λ (L, L) pair by pair, as methods say it; the references are as large as the picture."""
    image = where.image  # type: ignore[attr-defined]
    kind = ["nobody"] * length
    for token in range(*where.text.indices(length)):  # type: ignore[attr-defined]
        kind[token] = "text"
    marks: dict[int, str] = {}
    for name, grid in (("image", image), *(("reference", one) for one in where.references)):  # type: ignore[attr-defined]
        for patch in range(grid.count):
            kind[grid.start + patch] = name
            at = divmod(patch, grid.width)
            marks[grid.start + patch] = "core" if core[at] else "ring" if ring[at] else ""
    own = {"core": weights.core, "ring": weights.ring}
    found = torch.ones(length, length)
    for i in range(length):
        for j in range(length):
            options = []
            if flow is not Flow.REFERENCE and kind[i] == "image" and marks[i]:
                if kind[j] != "image":
                    options.append(own[marks[i]])
                elif not marks[j]:
                    options.append(weights.safe)
            if (
                flow is not Flow.CONTENT
                and kind[i] in ("text", "image")
                and kind[j] == "reference"
                and marks[j]
            ):
                options.append(own[marks[j]])
            if options:
                found[i, j] = min(options)
    return found


@settings(deadline=None, max_examples=60)
@given(
    SIZES,
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(Flow),
    st.integers(0, 2**31),
)
def test_groups_say_what_the_method_says_of_each_pair(
    size: tuple[int, int], text: int, references: int, gap: int, flow: Flow, seed: int
) -> None:
    where = flows.layout(text, size, [size] * references, gap)
    length = where.tokens + 1
    region = around(torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.3, 1)
    weights = Weights(0.2, 0.4, 1.05)
    groups = groups_of(where, region, weights, flow, length)
    assert torch.equal(
        flows.factors_of([groups], length)[0],
        by_pairs(where, region.core, region.ring, weights, flow, length),
    )
    rows = torch.cat([group.rows for group in groups]) if groups else torch.zeros(0)
    assert len(rows) == len(rows.unique())


def test_references_of_other_sizes_are_attenuated_at_the_same_places() -> None:
    where = flows.layout(2, (4, 4), [(8, 8), (2, 3), (1, 1)])
    core = torch.zeros(4, 4, dtype=torch.bool)
    core[0, 3] = True
    (group,) = groups_of(where, around(core, 0), Weights(), Flow.REFERENCE, where.tokens)
    large, small, one = (group.weights[grid.span].view(grid.size) for grid in where.references)
    assert (large == 0.2).nonzero().tolist() == [[0, 6], [0, 7], [1, 6], [1, 7]]
    assert (small == 0.2).nonzero().tolist() == [[0, 2]]
    assert one.item() == pytest.approx(0.2)
    assert (group.weights[: where.image.stop] == 1).all()
    assert group.rows.tolist() == list(range(where.image.stop))


def test_nothing_to_restrict_makes_no_groups() -> None:
    where, core = flows.layout(2, (3, 3)), torch.zeros(3, 3, dtype=torch.bool)
    assert groups_of(where, around(core, 1), Weights(), Flow.CONTENT, 11) == ()
    core[1, 1] = True
    assert groups_of(where, around(core, 1), Weights(1.0, 1.0, 1.0), Flow.BOTH, 11) == ()
    assert groups_of(where, around(core, 1), Weights(), Flow.REFERENCE, 11) == ()


def test_regions_and_sequences_of_another_size_are_refused() -> None:
    region = around(torch.ones(3, 4, dtype=torch.bool), 0)
    with pytest.raises(
        SteeringError, match="expected a mask of 3 × 3 patches, as the picture has, found 3 × 4"
    ):
        groups_of(flows.layout(2, (3, 3)), region, Weights(), Flow.CONTENT, 11)
    with pytest.raises(SteeringError, match="expected at least 14 tokens, found 13"):
        groups_of(flows.layout(2, (3, 4)), region, Weights(), Flow.CONTENT, 13)


@pytest.mark.parametrize("wrong", [{"core": -0.1}, {"ring": float("nan")}, {"safe": float("inf")}])
def test_weights_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SteeringError, match="weights of the restriction: expected finite numbers"):
        Weights(**wrong)


def test_small_calls_are_filled_up_with_other_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    where = flows.layout(4, (16, 16))
    core = torch.zeros(16, 16, dtype=torch.bool)
    core[1:4, 2:5] = True
    groups = [groups_of(where, around(core, 1), Weights(), Flow.CONTENT, where.tokens)]
    q, k, v = flows.qkv(3, 1, 2, where.tokens, 8)
    lengths: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        lengths.append(q.shape[2])
        return flows.attend(q, k, v, mask)

    alone = restricted(attend, q, k, v, groups)
    monkeypatch.setattr("steerdit.steering.flow.restrict.FULL", 32)
    torch.testing.assert_close(restricted(attend, q, k, v, groups), alone)
    torch.testing.assert_close(
        restricted(attend, q, k, v, groups, renormalise=False),
        restricted(attend, q, k, v, groups, renormalise=False, whole_calls=True),
    )
    assert lengths == [235, 25, 228, 32, 235, 9, 16, 260, 9, 16]
    del lengths[:]
    restricted(attend, q.bfloat16(), k.bfloat16(), v.bfloat16(), groups)
    assert lengths == [235, 25], "in half precision that gains nothing"


def test_equal_weights_make_one_group() -> None:
    where, core = flows.layout(2, (4, 4)), torch.zeros(4, 4, dtype=torch.bool)
    core[0, 0] = True
    (group,) = groups_of(where, around(core, 1), Weights(0.0, 0.0, 3.0), Flow.CONTENT, where.tokens)
    assert group.rows.tolist() == [2, 3, 6, 7]


def test_large_groups_are_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    where = flows.layout(4, (6, 6))
    core = torch.zeros(6, 6, dtype=torch.bool)
    core[1:4, 2:5] = True
    groups = [groups_of(where, around(core, 1), Weights(), Flow.CONTENT, where.tokens)]
    q, k, v = flows.qkv(3, 1, 2, where.tokens, 8)
    lengths: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        lengths.append(q.shape[2])
        return flows.attend(q, k, v, mask)

    together = restricted(attend, q, k, v, groups)
    monkeypatch.setattr("steerdit.steering.flow.restrict.JOINED", 10)
    apart = restricted(attend, q, k, v, groups)
    torch.testing.assert_close(together, apart)
    assert lengths == [15, 25, 15, 9, 16]
