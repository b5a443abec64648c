"""Speed of the kernels on an NVIDIA GPU: ``python -m steerdit.benchmarks.kernels.cuda --device cuda``.

Each row is a median over CUDA events, with inputs that rotate through more memory than the L2 cache holds, beside the
roofline of the card (kernels/triton/bytes.py) and what plain torch and sparsify need for the same. Before anything is
timed, random calls on the GPU are held against the reference. Writes benchmarks/out/kernels_cuda.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ... import kernels
from ...kernels import reference
from .. import peers
from ..results import versions, write
from .random_calls import fault

SEED = 20
ROUNDS = 50
CALLS = 200
"""Random calls that are checked first."""

PEAKS = {
    # bytes/s, bfloat16 FLOP/s with float32 sums, TensorFloat32 FLOP/s: dense, from the data sheets
    "H200": (4.8e12, 989e12, 494e12),
    "H100 80GB HBM3": (3.35e12, 989e12, 494e12),
    "A100-SXM4-80GB": (2.039e12, 312e12, 156e12),
    "RTX 4090": (1.008e12, 165e12, 82.6e12),
}


@dataclass(frozen=True)
class Row:
    """One way to compute one thing."""

    what: str
    way: str
    shape: str
    median_us: float
    low_us: float
    """first decile"""
    high_us: float
    """ninth decile"""
    roofline_us: float | None
    """Only for our kernels, on a card whose peaks are known."""
    share_of_roofline: float | None


@dataclass(frozen=True)
class Sizes:
    tokens: int = 4608
    width: int = 3072
    latents: int = 24_576
    k: int = 32

    def __str__(self) -> str:
        return f"T={self.tokens} d={self.width} N={self.latents} k={self.k}"


def timed(run: Callable[[int], object], copies: int) -> list[float]:
    """Microseconds of each round; `run` gets the number of the copy of its inputs that it shall use."""
    for copy in range(max(3, copies)):
        run(copy % copies)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * ROUNDS)]
    torch.cuda.synchronize()
    for r in range(ROUNDS):
        marks[2 * r].record()
        run(r % copies)
        marks[2 * r + 1].record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in zip(marks[::2], marks[1::2])]


def copies_of(tensor: Tensor) -> list[Tensor]:
    """Copies of a tensor that together are at least twice as large as the L2 cache, three at least."""
    l2 = torch.cuda.get_device_properties(tensor.device).L2_cache_size
    count = max(3, -(-2 * l2 // (tensor.numel() * tensor.element_size())))
    return [tensor.clone() for _ in range(count)]


class OnDevice:
    """A path whose arguments are moved to a device first and whose results come back."""

    def __init__(self, path: Any, device: torch.device) -> None:
        self.path, self.device = path, device

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            moved = [a.to(self.device) if isinstance(a, Tensor) else a for a in arguments]
            found = getattr(self.path, name)(*moved)
            return found.cpu() if isinstance(found, Tensor) else tuple(part.cpu() for part in found)

        return call


def cases(
    sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, str, list[Tensor], Callable[[Tensor], object], Any]]:
    """What is computed, which way, its rotating input, the call, and for our own the traffic by the model."""
    from ...kernels.triton import bytes as model
    from ...kernels.triton import configs, dictionaries
    from ...kernels.triton.launch import architecture

    g = torch.Generator(device).manual_seed(SEED)
    t, d, n, k, size = sizes.tokens, sizes.width, sizes.latents, sizes.k, dtype.itemsize
    arch = architecture(device)
    assert arch is not None

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device=device).to(dtype)

    rows, bias, zero = draw(n, d) / d**0.5, 0.1 * draw(n), torch.zeros(d, device=device, dtype=dtype)
    x, pre = copies_of(draw(t, d)), copies_of(draw(t, n))
    values, indices = pre[0].new_empty(t, k), torch.empty(t, k, dtype=torch.int64, device=device)

    config = configs.row_topk(arch, size, n, k)
    assert config is not None
    select = model.row_topk(config, tokens=t, latents=n, k=k, itemsize=size)
    yield "select", "ours", pre, lambda p: dictionaries.select_topk(p, k, values, indices), select
    yield "select", "torch.topk", pre, lambda p: p.topk(k, dim=-1), None

    yield (
        "matrix product",
        "torch",
        x,
        lambda a: functional.linear(a, rows, bias),
        model.encode(tokens=t, width=d, latents=n, itemsize=size),
    )
    yield "encode_topk", "ours", x, lambda a: kernels.encode_topk(a, rows, bias, k), None
    yield "encode_topk", "linear, torch.topk", x, lambda a: functional.linear(a, rows, bias).topk(k), None

    v, i = kernels.encode_topk(x[0], rows, bias, k)
    codes = copies_of(v)[: max(3, len(x))]
    gather = model.gather(configs.GATHER[size], tokens=t, k=k, width=d, latents=n, itemsize=size)
    yield "decode", "ours", codes, lambda c: kernels.decode(c, i, rows, zero), gather
    dense = torch.zeros(t, n, device=device, dtype=dtype).scatter_(-1, i, v)
    yield "decode", "dense", [dense], lambda z: torch.addmm(zero, z, rows), None
    try:
        impl = peers.sparsify().decoder_impl
    except ImportError as missing:
        print(f"sparsify is left out: {missing}")
    else:
        yield "decode", "sparsify", codes, lambda c: impl(i, c, rows.mT) + zero, None

    for s in (1, 16, 64, 128):
        steer = configs.steer(arch, size, s)
        assert steer is not None
        encoder, b, theta = rows[:s].clone(), bias[:s].clone(), torch.zeros(s, device=device)
        for keep_norm in (False, True):
            traffic = model.steer(
                steer, tokens=t, width=d, latents=s, itemsize=size, encoded=True, keep_norm=keep_norm
            )
            what = f"encode_and_steer, {s} latents{', norm kept' if keep_norm else ''}"
            for way, path, said in (("ours", kernels, traffic), ("torch", reference, None)):
                yield (
                    what,
                    way,
                    x,
                    lambda a, path=path, e=encoder, b=b, th=theta, kn=keep_norm: path.encode_and_steer(
                        a, e, b, th, e, -1.0, kn
                    ),
                    said,
                )
    v0 = draw(d)
    added = model.add_direction(tokens=t, width=d, itemsize=size)
    yield "add_direction, norm kept", "ours", x, lambda a: kernels.add_direction(a, v0, 1.0, True), added
    yield "add_direction, norm kept", "torch", x, lambda a: reference.add_direction(a, v0, 1.0, True), None


def measured(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> list[Row]:
    """All rows of one size."""
    from ...kernels.triton.bytes import Gpu

    properties = torch.cuda.get_device_properties(device)
    peak = next((found for name, found in PEAKS.items() if name in properties.name), None)
    gpu = peak and Gpu(properties.name, 0, *peak, properties.L2_cache_size, properties.multi_processor_count)
    found: list[Row] = []
    for what, way, inputs, run, traffic in cases(sizes, dtype, device):
        rounds = timed(lambda copy, run=run, inputs=inputs: run(inputs[copy]), len(inputs))
        median, deciles = statistics.median(rounds), statistics.quantiles(rounds, n=10)
        least = traffic.seconds(gpu) * 1e6 if gpu and traffic else None
        name = f"{sizes} {str(dtype).removeprefix('torch.')}"
        row = Row(what, way, name, median, deciles[0], deciles[-1], least, least / median if least else None)
        share = "" if row.share_of_roofline is None else f"{row.share_of_roofline:6.0%} of the roofline"
        print(f"{what:40} {way:20} {median:10.1f} us {share}", flush=True)
        found.append(row)
    return found


def missing(device: torch.device) -> str | None:
    """What the measurement needs and does not find."""
    needs = (
        "This measurement needs an NVIDIA GPU of compute capability 8.0 or later, torch for CUDA and triton"
    )
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"{needs}; torch {torch.__version__} finds no CUDA device. Without one, `nox -s bench -- kernels` runs."
    try:
        from ...kernels.triton.launch import why_not
    except ImportError as reason:
        return f"{needs}; {reason}."
    reason = why_not(device, torch.bfloat16)
    return reason and f"{needs}; {reason}."


def main(arguments: Sequence[str] | None = None) -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--device", default="cuda", type=torch.device)
    args = ask.parse_args(arguments)
    if lacking := missing(args.device):
        print(lacking, file=sys.stderr)
        return 2
    from ...kernels import triton as ours

    torch.set_grad_enabled(False)
    faults = list(filter(None, (fault(OnDevice(ours, args.device), number) for number in range(CALLS))))
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 1
    print(f"{CALLS} random calls agree with the reference")
    rows: list[Row] = []
    for sizes in (Sizes(), Sizes(latents=49_152, k=64), Sizes(width=2432, latents=19_456)):
        rows += measured(sizes, torch.bfloat16, args.device)
        torch.cuda.empty_cache()
    write(
        "kernels_cuda",
        {},
        gpu=torch.cuda.get_device_name(args.device),
        rounds=ROUNDS,
        seed=SEED,
        rows=[asdict(row) for row in rows],
        versions=versions("torch", "triton", "eai-sparsify"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
