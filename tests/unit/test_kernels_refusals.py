"""What the kernels refuse, and by which name; and where numbers that are not finite stay visible instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from steerdit import kernels

from .operands import BIAS, DTYPES, INDICES, ROWS, THETA, VALUES, X, Z, dictionary, normal

HALF = torch.bfloat16
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
