"""Calls at the edge of what kernels take: each gives the right result or an error that names what is wrong.

    python -m steerdit.benchmarks.kernels.edges cpu        prints what goes wrong; so for reference and triton

Numbers are small and whole, so that the results of two memory layouts are equal to the bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ... import kernels
from .process import reported

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TOKENS, WIDTH, LATENTS, K = 3, 16, 40, 4

ARGUMENTS: dict[str, tuple[str | float, ...]] = {
    "encode_topk": ("x", "rows", "bias", K),
    "encode_threshold": ("x", "rows", "bias", "threshold"),
    "topk_membership": ("x", "rows", "bias", "selected", K),
    "encode_selected": ("x", "rows", "bias", "threshold"),
    "decode": ("values", "indices", "rows", "centre"),
    "decode_selected": ("z", "rows", "centre"),
    "steer_selected": ("x", "z", "rows", -1.0, True),
    "encode_and_steer": ("x", "rows", "bias", "threshold", "directions", -1.0, True),
    "add_direction": ("x", "direction", 2.0, True),
    "project_out": ("x", "basis", 0.5),
}
"""Of each kernel: names of `drawn` tensors, and numbers as they are."""

REFUSE_NOT_FINITE = ("encode_topk", "encode_threshold", "topk_membership", "decode")
"""What compares latents, and what reads rows by their number. The others show a NaN in their result."""

Tensors = dict[str, Tensor]


class Case(NamedTuple):
    """One call and what is wrong with what it does, or None."""

    group: str
    name: str
    fault: Callable[[], str | None]


def drawn(dtype: torch.dtype) -> Tensors:
    """Arguments of every kernel. Every second latent is over its threshold, so that row 1 acts at each token."""
    g = torch.Generator().manual_seed(7)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=g).to(dtype)

    threshold = torch.full((LATENTS,), 5.5)
    threshold[1::2] = -1000.0
    return {
        "x": whole(TOKENS, WIDTH),
        "rows": whole(LATENTS, WIDTH),
        "bias": whole(LATENTS),
        "threshold": threshold,
        "selected": torch.tensor([1, 39, 0, 17, 17]),
        "values": whole(TOKENS, K) + 3,
        "indices": torch.tensor([[1, 0, 39, 1]]).repeat(TOKENS, 1),
        "centre": whole(WIDTH),
        "z": whole(TOKENS, LATENTS) + 3,
        "direction": whole(WIDTH),
        "directions": whole(LATENTS, WIDTH),
        "basis": whole(2, WIDTH) / 4,
    }


def called(operation: str, tensors: Tensors) -> tuple[Tensor, ...]:
    given = (tensors[a] if isinstance(a, str) else a for a in ARGUMENTS[operation])
    found = getattr(kernels, operation)(*given)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def refused(call: Callable[[], object], *words: str) -> str | None:
    """Whether an error is raised whose message has all these words."""
    try:
        call()
    except (TypeError, ValueError) as error:
        missing = [word for word in words if word not in str(error)]
        return f"the error does not say {missing}: {error}" if missing else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def same(call: Callable[[], tuple[Tensor, ...]], expected: Callable[[], tuple[Tensor, ...]]) -> str | None:
    """Whether two calls give the same: integers exactly, numbers to eight roundings of the largest."""
    try:
        for found, right in zip(call(), expected(), strict=True):
            if (found.shape, found.dtype) != (right.shape, right.dtype):
                return f"{tuple(found.shape)} {found.dtype}, not {tuple(right.shape)} {right.dtype}"
            off = 0.0
            if found.is_floating_point() and found.numel():
                off = 8 * torch.finfo(found.dtype).eps * max(1.0, float(right.abs().max()))
            if not torch.allclose(found.double(), right.double(), rtol=0.0, atol=off):
                return "the result differs"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def cases(path: str) -> Iterator[Case]:
    """All cases that a path can take: triton knows no float64."""
    for dtype in DTYPES if path != "triton" else DTYPES[:3]:
        for operation in ARGUMENTS:
            for make in (_not_finite, _layouts, _mixed, _empty, _numbers):
                for case in make(operation, dtype):
                    name = f"{operation} in {str(dtype).removeprefix('torch.')}, {case.name}"
                    yield case._replace(name=name)


def _numbers(operation: str, dtype: torch.dtype) -> Iterator[Case]:
    """Numbers out of range: k, and latents by their index."""
    for k in (0, -1, LATENTS + 1) if K in ARGUMENTS[operation] else ():
        yield Case("k", f"k = {k}", lambda k=k: _bad_k(operation, k, dtype))
    for argument in ("indices", "selected"):
        for number in (-1, LATENTS, 2**40) if argument in ARGUMENTS[operation] else ():
            yield Case(
                "indices",
                f"{number} in {argument}",
                lambda a=argument, n=number: _bad_index(operation, a, n, dtype),
            )


def _bad_k(operation: str, k: int, dtype: torch.dtype) -> str | None:
    tensors = drawn(dtype)
    given = [tensors[a] if isinstance(a, str) else k if a == K else a for a in ARGUMENTS[operation]]
    return refused(lambda: getattr(kernels, operation)(*given), f"k must be from 1 to {LATENTS}")


def _bad_index(operation: str, argument: str, number: int, dtype: torch.dtype) -> str | None:
    tensors = drawn(dtype)
    tensors[argument].view(-1)[1] = number
    return refused(
        lambda: called(operation, tensors), f"{argument} must be from 0 to {LATENTS - 1}", f"{number}"
    )


def _floats(operation: str) -> list[str]:
    names = [a for a in ARGUMENTS[operation] if isinstance(a, str)]
    return [a for a in names if a not in ("threshold", "indices", "selected")]


def _not_finite(operation: str, dtype: torch.dtype) -> Iterator[Case]:
    for argument in _floats(operation):
        for value in (torch.nan, torch.inf, -torch.inf):

            def fault(argument: str = argument, value: float = value) -> str | None:
                tensors = drawn(dtype)
                wrong = tensors[argument]
                wrong[(1,) * wrong.dim()] = value
                if operation in REFUSE_NOT_FINITE:
                    said = "bias" if argument == "centre" else argument
                    return refused(lambda: called(operation, tensors), f"{said} must be finite")
                (found,), (sound,) = called(operation, tensors), called(operation, drawn(dtype))
                if found[1].isfinite().all():
                    return "it is not seen in the result"
                if wrong.dim() == 2 and len(wrong) == TOKENS and not torch.equal(found[::2], sound[::2]):
                    return "it is seen at other tokens"
                return None

            yield Case("not_finite", f"{value} in {argument}", fault)


def _layouts(operation: str, dtype: torch.dtype) -> Iterator[Case]:
    for how, moved in LAYOUTS.items():
        for argument in ("all", *(a for a in ARGUMENTS[operation] if isinstance(a, str))):

            def fault(argument: str = argument, moved: Callable[[Tensor], Tensor] = moved) -> str | None:
                plain = drawn(dtype)
                tensors = {
                    name: moved(tensor) if argument in ("all", name) else tensor
                    for name, tensor in drawn(dtype).items()
                }
                wrong = same(lambda: called(operation, tensors), lambda: called(operation, plain))
                if wrong is None and not all(torch.equal(tensors[n], t) for n, t in plain.items()):
                    return "it wrote into an argument"
                return wrong

            yield Case("layouts", f"{argument} {how}", fault)


def _strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, 99)], dim=-1)[..., 0]


def _misaligned(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.expand(2, -1)[1]


LAYOUTS = {"strided": _strided, "misaligned": _misaligned, "transposed": _transposed}


def _mixed(operation: str, dtype: torch.dtype) -> Iterator[Case]:
    other = torch.float32 if dtype != torch.float32 else torch.bfloat16
    for argument in _floats(operation):
        for wrong in (other, torch.int64):

            def fault(argument: str = argument, wrong: torch.dtype = wrong) -> str | None:
                tensors = drawn(dtype)
                tensors[argument] = tensors[argument].to(wrong)
                return refused(lambda: called(operation, tensors), str(wrong))

            yield Case("mixed_dtypes", f"{argument} in {wrong}", fault)


def _empty(operation: str, dtype: torch.dtype) -> Iterator[Case]:
    """No token; and no latent, wherever a kernel does not have to find some."""
    tensors = drawn(dtype)
    over_tokens = ("x", "z", "values", "indices")
    none = {name: t[:0] if name in over_tokens else t for name, t in tensors.items()}

    def no_token() -> str | None:
        return same(
            lambda: tuple(t.sum(0) for t in called(operation, none)),
            lambda: tuple(
                torch.zeros_like(t).sum(0) for t in _to_width(called(operation, tensors), operation)
            ),
        )

    yield Case("nothing", "no token", no_token)
    if operation == "encode_topk":
        return
    bare = {
        name: t[:, :0] if name in ("z", "values", "indices") else t if name in ("x", "centre", "direction") else t[:0]
        for name, t in tensors.items()
    }  # fmt: skip
    if operation in ("decode", "topk_membership"):
        bare |= {name: tensors[name] for name in ("rows", "bias")}
    if operation == "add_direction":
        return
    x, centre = tensors["x"], tensors["centre"]
    right: dict[str, tuple[Tensor, ...]] = {
        "encode_threshold": (x[:, :0], torch.zeros(TOKENS, 0).long(), torch.zeros(TOKENS).long()),
        "topk_membership": (torch.zeros(TOKENS, 0).bool(),),
        "encode_selected": (x[:, :0],),
        "decode": (centre.expand(TOKENS, -1),),
        "decode_selected": (centre.expand(TOKENS, -1),),
    }
    yield Case(
        "nothing",
        "no latent",
        lambda: same(lambda: called(operation, bare), lambda: right.get(operation, (x,))),
    )


def _to_width(found: tuple[Tensor, ...], operation: str) -> tuple[Tensor, ...]:
    """Results as wide as where no token says how many latents fire."""
    if operation == "encode_threshold":
        return found[0][:, :0], found[1][:, :0], found[2]
    return found


def main() -> int:
    torch.set_grad_enabled(False)
    return reported([said(case) for case in cases(sys.argv[1])])


def said(case: Case) -> str | None:
    """What is wrong with a case, after its group and name."""
    wrong = case.fault()
    return wrong and f"{case.group}: {case.name}: {wrong}"


if __name__ == "__main__":
    sys.exit(main())
