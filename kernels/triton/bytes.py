"""How many bytes each launch moves and how many operations it does, by its arguments alone, and how long a GPU needs
at least.

Of every launch two counts of bytes: `requested`, by all loads and stores of all programs, and `distinct`, each byte
once. Device memory moves the distinct bytes as long as what is read again is still in the L2 cache; `flight` says how
much that takes. The tests hold both counts against the addresses that the kernels touch in triton's interpreter.
"""

from __future__ import annotations

from typing import NamedTuple

from . import configs
from .configs import Config


class Gpu(NamedTuple):
    """Peaks from a data sheet; a roofline, not a measurement."""

    name: str
    arch: int
    bytes_per_s: float
    flops: float
    """Of bfloat16 products with float32 sums, dense, per second."""
    flops_tf32: float
    l2: int
    multiprocessors: int


H100 = Gpu("H100 SXM", 90, 3.35e12, 989e12, 494e12, 50 << 20, 132)
RTX_4090 = Gpu("RTX 4090", 89, 1.008e12, 165e12, 82.6e12, 72 << 20, 128)


class Traffic(NamedTuple):
    """What one launch moves and computes."""

    requested: int
    """Bytes of all loads and stores."""
    distinct: int
    """Bytes of all addresses that are touched."""
    minimum: int
    """Bytes of the arguments that have to be read and of the results that have to be written, whatever the kernel."""
    flops: int = 0
    itemsize: int = 2
    flight: int = 0
    """Bytes that one program reads more than once: they have to stay in the L2 cache from pass to pass."""
    programs: int = 1
    """Of one launch."""
    again: int | None = None
    """Bytes that device memory moves besides the distinct ones where the cache does not hold them; None means all that
    is requested more than once. What all programs share stays in the cache."""

    def device_bytes(self, gpu: Gpu, at_once: int = 4) -> int:
        """Bytes that device memory moves, with so many programs at once on each multiprocessor."""
        in_flight = min(self.programs, gpu.multiprocessors * at_once) * self.flight
        again = self.requested - self.distinct if self.again is None else self.again
        return self.distinct if in_flight <= gpu.l2 else self.distinct + again

    def seconds(self, gpu: Gpu) -> float:
        """The roofline: memory or tensor cores, whichever takes longer."""
        # A float32 product that is exact takes three of TensorFloat32.
        peak = gpu.flops if self.itemsize == 2 else gpu.flops_tf32 / 3
        return max(self.device_bytes(gpu) / gpu.bytes_per_s, self.flops / peak)


def steer(
    config: Config,
    *,
    tokens: int,
    width: int,
    latents: int,
    itemsize: int,
    encoded: bool,
    keep_norm: bool,
    at_once: int | None = None,
) -> Traffic:
    """Of `steer_kernel`, where a latent is open in every program's tokens.

    Args:
        at_once: tokens of one launch (`configs.steered_at_once`); None means all.
    """
    each = int(config.constants["TOKENS"])
    programs = -(-tokens // each)
    passes = encoded + keep_norm + 1  # over x
    tile, rows = tokens * width * itemsize, latents * width * itemsize
    codes = tokens * latents * itemsize
    requested = (passes + 1) * tile + programs * passes * rows
    distinct = 2 * tile + rows
    flops = 2 * tokens * width * latents * (1 + keep_norm)
    if encoded:
        requested += programs * 8 * latents
        distinct += rows + 8 * latents
        flops += 2 * tokens * width * latents
    else:
        requested += codes
        distinct += codes
    minimum = 2 * tile + (2 * rows + 8 * latents if encoded else rows + codes)
    together = programs if at_once is None else min(programs, at_once // each)
    return Traffic(
        requested, distinct, minimum, flops, itemsize, each * width * itemsize, together, (passes - 1) * tile
    )


def row_topk(config: Config, *, tokens: int, latents: int, k: int, itemsize: int) -> Traffic:
    """Of `row_topk_kernel`; `requested` is the most that it can be."""
    row, kept = latents * itemsize, k * (itemsize + 8)
    span, passes = int(config.constants["SPAN"]), int(config.constants["PASSES"])
    again = 0 if span * passes == 1 else min(k * span * passes, latents) * itemsize
    distinct = tokens * (row + kept)
    return Traffic(tokens * (row + again + kept), distinct, distinct, 0, itemsize, row, tokens)


def membership(config: Config, *, tokens: int, latents: int, probes: int, itemsize: int) -> Traffic:
    """Of `membership_kernel`."""
    columns = -(-probes // int(config.constants["PROBES"]))
    row = latents * itemsize
    distinct = tokens * row + 8 * probes + tokens * probes
    requested = tokens * (columns * row + probes * (8 + itemsize + 1))
    return Traffic(requested, distinct, distinct, 0, itemsize, row, tokens * columns)


def compact(*, tokens: int, latents: int, capacity: int, itemsize: int) -> Traffic:
    """Of `compact_kernel`, where what fires fits."""
    moved = tokens * (latents * itemsize + capacity * (itemsize + 8) + 8)
    distinct = moved + 4 * latents
    return Traffic(moved + tokens * 4 * latents, distinct, distinct, 0, itemsize, 0, tokens)


def gather(
    config: Config, *, tokens: int, k: int, width: int, latents: int, itemsize: int, index: int = 8
) -> Traffic:
    """Of `gather_kernel`, with as many different rows named as there can be."""
    slices = -(-width // int(config.constants["COLUMNS"]))
    named = tokens * k * (itemsize + index)
    rows = min(tokens * k, latents) * width * itemsize
    out = tokens * width * itemsize
    return Traffic(
        requested=slices * named + tokens * k * width * itemsize + tokens * width * 4 + out,
        distinct=named + rows + width * 4 + out,
        minimum=named + rows + width * 4 + out,
        flops=2 * tokens * k * width,
        itemsize=itemsize,
    )


def add_direction(*, tokens: int, width: int, itemsize: int) -> Traffic:
    """Of `add_direction_kernel`."""
    moved = 2 * tokens * width * itemsize
    return Traffic(moved + tokens * width * 4, moved + width * 4, moved + width * 4, 0, itemsize)


def encode(*, tokens: int, width: int, latents: int, itemsize: int) -> Traffic:
    """Of the library's matrix product before a selection: x and the dictionary in, pre-activations out."""
    moved = (tokens * width + latents * width + tokens * latents + latents) * itemsize
    return Traffic(moved, moved, moved, 2 * tokens * width * latents, itemsize)


def steering(gpu: Gpu, *, tokens: int, width: int) -> dict[str, Traffic]:
    """Of steering as it is launched: every class of S, both ways of getting codes, with and without the norm kept."""
    found: dict[str, Traffic] = {}
    for itemsize, classes in configs.STEER_LATENTS.items():
        for selected in (1, *classes):
            config = configs.steer(gpu.arch, itemsize, selected)
            assert config is not None
            for encoded in (True, False):
                for keep_norm in (False, True):
                    name = (
                        f"steer, {selected} latents{'' if encoded else ' given'}"
                        f"{', norm kept' if keep_norm else ''}{', float32' if itemsize == 4 else ''}"
                    )
                    found[name] = steer(
                        config,
                        tokens=tokens,
                        width=width,
                        latents=selected,
                        itemsize=itemsize,
                        encoded=encoded,
                        keep_norm=keep_norm,
                        at_once=configs.steered_at_once(config, width, itemsize, gpu.l2),
                    )
    return found


class Roofline(NamedTuple):
    """One kernel on one GPU."""

    kernel: str
    shape: str
    gpu: str
    megabytes: float
    over_minimum: float
    """Bytes that device memory moves over the arithmetic minimum."""
    gigaflops: float
    microseconds: float


def rooflines() -> list[Roofline]:
    """Each kernel in bfloat16 at the widths of FLUX.1 (3072) and Stable Diffusion 3.5 Large (2432): 4608 tokens, 8 d
    latents, k = 32.
    """
    found: list[Roofline] = []
    tokens, k, size = 4608, 32, 2
    for gpu in (H100, RTX_4090):
        for width in (3072, 2432):
            latents = 8 * width
            select = configs.row_topk(gpu.arch, size, latents, k)
            assert select is not None
            cases = {
                "matrix product": encode(tokens=tokens, width=width, latents=latents, itemsize=size),
                "row_topk": row_topk(select, tokens=tokens, latents=latents, k=k, itemsize=size),
                "compact": compact(tokens=tokens, latents=latents, capacity=2 * k, itemsize=size),
                "membership, 8 latents": membership(
                    configs.membership(size, latents), tokens=tokens, latents=latents, probes=8, itemsize=size
                ),
                "gather": gather(
                    configs.GATHER[size], tokens=tokens, k=k, width=width, latents=latents, itemsize=size
                ),
                "add_direction": add_direction(tokens=tokens, width=width, itemsize=size),
            }
            steered = steering(gpu, tokens=tokens, width=width)
            cases |= {f"steer, {s} latents": steered[f"steer, {s} latents"] for s in (1, 16, 64, 256)}
            shape = f"T={tokens} d={width} N={latents} k={k}"
            for name, traffic in cases.items():
                moved = traffic.device_bytes(gpu)
                found.append(
                    Roofline(
                        name,
                        shape,
                        gpu.name,
                        moved / 1e6,
                        moved / traffic.minimum,
                        traffic.flops / 1e9,
                        traffic.seconds(gpu) * 1e6,
                    )
                )
    return found


def steering_over_minimum() -> dict[str, float]:
    """Device bytes over the arithmetic minimum of every way of steering, at the same shapes on the same GPUs."""
    return {
        f"{name}, d={width}, {gpu.name}": traffic.device_bytes(gpu) / traffic.minimum
        for gpu in (H100, RTX_4090)
        for width in (3072, 2432)
        for name, traffic in steering(gpu, tokens=4608, width=width).items()
    }
