"""Random calls of every kernel, held against the reference: what a path selects exactly, what it sums to rounding.

    python -m steerdit.benchmarks.kernels.random_calls cpu 1000        prints what differs; so for reference and triton

Numbers are small multiples of a power of two, so that every product and sum of pre-activations is exact in any order
and in any dtype: ties are heavy, and a wrong choice cannot hide behind rounding. A call is drawn from its number.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import kernels
from ...kernels import reference
from .process import reported

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Call:
    """One random call."""

    number: int
    operation: str
    shape: tuple[int, ...]
    """(...) of the tokens."""
    width: int
    latents: int
    dtype: torch.dtype

    def __str__(self) -> str:
        what = f"call {self.number}: {self.operation} of {list(self.shape)} tokens"
        return f"{what}, d = {self.width}, {self.latents} latents, {self.dtype}"


def drawn(number: int) -> Call:
    """The call with this number."""
    r = random.Random(number)
    operation = r.choice(tuple(CHECKS))
    shape = r.choice(((1,), (0,), (), (r.randint(2, 9),), (2, r.randint(1, 4)), (1, 2, 3)))
    whole = operation in ("encode_topk", "encode_threshold", "topk_membership", "decode")
    if operation == "encode_topk" and r.random() < 0.1:
        # Wide enough for the second level of the selection; seldom beyond 16 bits of place.
        return Call(number, operation, (2,), 4, r.choice((4097, 5000, 6400, 66_000)), r.choice(DTYPES))
    latents = r.choice((1, 2, 16, r.randint(1, 40), r.randint(40, 400 if whole else 128)))
    if not whole and r.random() < 0.05:
        latents = 0
    return Call(number, operation, shape, r.choice((1, 8, 16, r.randint(2, 32))), latents, r.choice(DTYPES))


def fault(path: Any, number: int) -> str | None:
    """What a path (a module with the functions of reference.py) computes otherwise in a random call, or None."""
    call = drawn(number)
    generator = torch.Generator().manual_seed(number)
    try:
        wrong = CHECKS[call.operation](path, call, generator)
    except Exception as reason:  # the number of the call is what a reader needs
        wrong = f"{type(reason).__name__}: {reason}"
    return f"{call}: {wrong}" if wrong else None


def _coarse(call: Call, g: torch.Generator, *shape: int, low: int = -2) -> Tensor:
    """Whole numbers from `low` to 2; now and then as a view with other strides or at an odd address."""
    kind = int(torch.randint(4, (), generator=g))
    if kind == 0 and len(shape) > 1:
        flipped = torch.randint(low, 3, (*shape[:-2], shape[-1], shape[-2]), generator=g).to(call.dtype)
        return flipped.transpose(-1, -2)
    if kind == 1:
        count = 1
        for size in shape:
            count *= size
        return torch.randint(low, 3, (count + 1,), generator=g).to(call.dtype)[1:].view(shape)
    return torch.randint(low, 3, shape, generator=g).to(call.dtype)


def _encoder(call: Call, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x, rows and bias; one row in three calls has no positive pre-activation."""
    x, rows = _coarse(call, g, *call.shape, call.width), _coarse(call, g, call.latents, call.width)
    bias = _coarse(call, g, call.latents)
    if torch.rand((), generator=g) < 0.3:
        bias = bias - 4 * call.width  # |p| <= 6 * 32 is exact in bfloat16
    return x, rows, bias


def _pick(g: torch.Generator, *choices: float) -> float:
    return choices[int(torch.randint(len(choices), (), generator=g))]


def _same(found: Any, expected: Any) -> str | None:
    for name, a, b in zip(("first", "second", "third"), found, expected):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"the {name} result is {tuple(a.shape)} {a.dtype}, not {tuple(b.shape)} {b.dtype}"
        if not torch.equal(a, b):
            return f"the {name} result differs in {int((a != b).sum())} places"
    return None


def _near(found: Tensor, expected: Tensor, magnitude: Tensor) -> str | None:
    """Differences of at most eight roundings of the terms' magnitude. `expected` is in double precision."""
    limit = 8 * torch.finfo(found.dtype).eps * magnitude
    off = (found.double() - expected).abs() - limit
    if found.shape != expected.shape:
        return f"the result is {tuple(found.shape)}, not {tuple(expected.shape)}"
    if off.numel() and not bool((off <= 0).all()):
        return f"the result is off by {float(off.max() + limit.flatten()[off.argmax()]):.3g}"
    return None


def _topk(path: Any, call: Call, g: torch.Generator) -> str | None:
    x, rows, bias = _encoder(call, g)
    k = int(torch.randint(1, min(call.latents, 40) + 1, (), generator=g))
    return _same(path.encode_topk(x, rows, bias, k), reference.encode_topk(x, rows, bias, k))


def _threshold(path: Any, call: Call, g: torch.Generator) -> str | None:
    x, rows, bias = _encoder(call, g)
    # Halfway between numbers that occur, or on them.
    theta = torch.randint(-8, 20, () if _pick(g, 0, 1) else (call.latents,), generator=g) / 2
    if _pick(g, 0, 1):
        theta = theta.double()
    expected = reference.encode_threshold(x, rows, bias, theta)
    capacity = None if _pick(g, 0, 1) else expected.values.shape[-1] + int(_pick(g, 0, 3))
    return _same(
        path.encode_threshold(x, rows, bias, theta, capacity),
        reference.encode_threshold(x, rows, bias, theta, capacity),
    )


def _membership(path: Any, call: Call, g: torch.Generator) -> str | None:
    x, rows, bias = _encoder(call, g)
    k = int(torch.randint(1, call.latents + 1, (), generator=g))
    selected = torch.randint(call.latents, (int(_pick(g, 0, 1, 5, 21)),), generator=g)
    found = path.topk_membership(x, rows, bias, selected, k)
    return _same([found], [reference.topk_membership(x, rows, bias, selected, k)])


def _decode(path: Any, call: Call, g: torch.Generator) -> str | None:
    k = int(torch.randint(0, 40, (), generator=g))
    values = torch.randn(*call.shape, k, generator=g).to(call.dtype)
    indices = torch.randint(call.latents, (*call.shape, k), generator=g)
    if _pick(g, 0, 1):
        indices = indices.int()
    rows = torch.randn(call.latents, call.width, generator=g).to(call.dtype)
    bias = torch.randn(call.width, generator=g).to(call.dtype)
    exact = (rows.double()[indices.long()] * values.double()[..., None]).sum(-2) + bias.double()
    size = (rows.double()[indices.long()] * values.double()[..., None]).abs().sum(-2) + bias.double().abs()
    return _near(path.decode(values, indices, rows, bias), exact, size)


def _moved(x: Tensor, step: Tensor, size: Tensor, keep_norm: bool) -> tuple[Tensor, Tensor]:
    """x + step and the magnitude of its terms, in double precision."""
    x, step = x.double(), step.double()
    size = x.abs() + size.double()
    if not keep_norm:
        return x + step, size
    before, after = x.norm(dim=-1, keepdim=True), (x + step).norm(dim=-1, keepdim=True)
    ratio = torch.where(after > 0, before / after.clamp_min(1e-30), torch.zeros_like(after))
    # An error of the steered vector turns it, and its norm's error is no larger than that of its numbers together.
    return (x + step) * ratio, (size + size.norm(dim=-1, keepdim=True)) * ratio


def _steered(call: Call, g: torch.Generator, steer: Callable[..., Tensor], fused: bool) -> str | None:
    x, rows, bias = _encoder(call, g)
    theta = torch.randint(-2, 30, (call.latents,), generator=g) / 2
    directions = _coarse(call, g, call.latents, call.width)
    strength, keep_norm = _pick(g, -1, -0.5, 0, 0.25, 2), bool(_pick(g, 0, 1))
    z = reference.encode_selected(x, rows, bias, theta)
    found = (
        steer(x, rows, bias, theta, directions, strength, keep_norm)
        if fused
        else steer(x, z, directions, strength, keep_norm)
    )
    z64, d64 = z.double(), directions.double()
    step, size = strength * (z64 @ d64), abs(strength) * (z64.abs() @ d64.abs())
    closed = (z == 0).all(-1)
    if not torch.equal(found[closed], x[closed]):
        return "a token with every gate closed lost its bits"
    expected, size = _moved(x, step, size, keep_norm)
    return _near(found[~closed], expected[~closed], size[~closed])


def _steer_selected(path: Any, call: Call, g: torch.Generator) -> str | None:
    return _steered(call, g, path.steer_selected, fused=False)


def _encode_and_steer(path: Any, call: Call, g: torch.Generator) -> str | None:
    return _steered(call, g, path.encode_and_steer, fused=True)


def _add_direction(path: Any, call: Call, g: torch.Generator) -> str | None:
    x, direction = _coarse(call, g, *call.shape, call.width), _coarse(call, g, call.width)
    strength, keep_norm = _pick(g, -1, 0.5, 3), bool(_pick(g, 0, 1))
    step = (strength * direction).expand_as(x)
    found = path.add_direction(x, direction, strength, keep_norm)
    return _near(found, *_moved(x, step, step.abs(), keep_norm))


def _project_out(path: Any, call: Call, g: torch.Generator) -> str | None:
    x, basis = _coarse(call, g, *call.shape, call.width), _coarse(call, g, call.latents, call.width) / 4
    strength, keep_norm = _pick(g, 1, 0.5), bool(_pick(g, 0, 1))
    b64 = basis.double()
    step = -strength * (x.double() @ b64.T @ b64)
    size = strength * (x.double().abs() @ b64.abs().T @ b64.abs())
    return _near(path.project_out(x, basis, strength, keep_norm), *_moved(x, step, size, keep_norm))


CHECKS: dict[str, Callable[[Any, Call, torch.Generator], str | None]] = {
    "encode_topk": _topk,
    "encode_threshold": _threshold,
    "topk_membership": _membership,
    "decode": _decode,
    "steer_selected": _steer_selected,
    "encode_and_steer": _encode_and_steer,
    "add_direction": _add_direction,
    "project_out": _project_out,
}


def main() -> int:
    path, count = sys.argv[1], int(sys.argv[2])
    torch.set_grad_enabled(False)
    module = importlib.import_module(f"{kernels.__name__}.{path}")
    return reported([fault(module, number) for number in range(count)])


if __name__ == "__main__":
    sys.exit(main())
