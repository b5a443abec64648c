"""How each kernel is launched: fixed by architecture and by classes of shape, never by trying.

What is shipped is what `compile.py` has compiled for every architecture; a call whose class is not in these tables is
refused and runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Architecture:
    """What decides whether a kernel can start."""

    shared: int
    """Bytes of shared memory that one program may have. The compiler does not mind; the launch fails."""
    l2: int
    """Bytes of L2 cache of its largest card, where the card itself is not asked."""


ARCHITECTURES = {
    80: Architecture(shared=166_912, l2=40 << 20),  # A100
    86: Architecture(shared=101_376, l2=6 << 20),  # RTX 3090
    89: Architecture(shared=101_376, l2=72 << 20),  # RTX 4090
    90: Architecture(shared=232_448, l2=50 << 20),  # H100
    100: Architecture(shared=232_448, l2=126 << 20),  # B200
    120: Architecture(shared=101_376, l2=96 << 20),  # RTX 5090
}


WHOLE = 16
"""Rows of pre-activations and of steered tokens are padded to a multiple of so many numbers: then every load is wide,
and there is no second program for ragged sizes."""


class Config(NamedTuple):
    """A kernel's compile-time constants and how many warps and pipeline stages run it."""

    constants: Mapping[str, int | str | bool]
    num_warps: int
    num_stages: int = 3


def class_of(size: int, classes: tuple[int, ...]) -> int | None:
    """The smallest class that holds a size."""
    return next((c for c in classes if size <= c), None)


# Latents are padded to 16, the least that a tensor core multiplies. A program's tokens are few where its sums would
# not fit the registers (float32, which takes three products of TensorFloat32 to be exact), and its columns where they
# would not fit the shared memory of the smallest architecture.
STEER = {
    (2, 16): Config({"TOKENS": 32, "COLUMNS": 128, "LATENTS": 16, "PRECISION": "ieee"}, 4),
    (2, 64): Config({"TOKENS": 32, "COLUMNS": 64, "LATENTS": 64, "PRECISION": "ieee"}, 4),
    (2, 128): Config({"TOKENS": 32, "COLUMNS": 64, "LATENTS": 128, "PRECISION": "ieee"}, 8),
    (2, 256): Config({"TOKENS": 32, "COLUMNS": 32, "LATENTS": 256, "PRECISION": "ieee"}, 8),
    (4, 16): Config({"TOKENS": 16, "COLUMNS": 64, "LATENTS": 16, "PRECISION": "tf32x3"}, 4),
    (4, 64): Config({"TOKENS": 16, "COLUMNS": 32, "LATENTS": 64, "PRECISION": "tf32x3"}, 8),
    (4, 128): Config({"TOKENS": 16, "COLUMNS": 32, "LATENTS": 128, "PRECISION": "tf32x3"}, 8),
}
STEER_LATENTS = {2: (16, 64, 128, 256), 4: (16, 64, 128)}
"""Classes of S by the size of a number in bytes."""


def steer(arch: int, itemsize: int, latents: int) -> Config | None:
    """Of `steer_kernel`, for S latents; a width is padded to `WHOLE`."""
    size = class_of(latents, STEER_LATENTS[itemsize])
    if size is None:
        return None
    config = STEER[itemsize, size]
    if ARCHITECTURES[arch].shared < 150_000:
        return config._replace(num_stages=2)
    return config


STEERED_PROGRAMS = 128
"""The least programs of a launch of a part: about as many as a large GPU has multiprocessors."""


def steered_at_once(config: Config, width: int, itemsize: int, l2: int) -> int | None:
    """Tokens of one launch of `steer_kernel`, so that later passes find them in the L2 cache; None means all.

    Where the cache is so small that a launch would leave multiprocessors idle, reading again costs less.
    """
    each = int(config.constants["TOKENS"])
    programs = l2 * 6 // 10 // (each * width * itemsize)
    return programs * each if programs >= STEERED_PROGRAMS else None


TOPK_K = (32, 64, 128)
TOPK_LATENTS = {
    # N: groups of `SPAN` neighbours, read in `PASSES`; one group an element where a row fits a block
    4096: (4096, 1, 1),
    32_768: (1024, 16, 2),
    65_536: (2048, 16, 2),
    131_072: (4096, 2, 16),
}


def is_long(itemsize: int, latents: int) -> bool:
    """Whether keys need more than 32 bits: 16 of the number and 16 of its place."""
    return itemsize > 2 or latents > 65_536


def row_topk(arch: int, itemsize: int, latents: int, k: int) -> Config | None:
    """Of `row_topk_kernel`, for N latents."""
    kept, size = class_of(k, TOPK_K), class_of(latents, tuple(TOPK_LATENTS))
    if kept is None or size is None:
        return None
    groups, span, passes = TOPK_LATENTS[size]
    long = is_long(itemsize, latents)
    constants = {"K": kept, "GROUPS": groups, "SPAN": span, "PASSES": passes, "LONG": long}
    # What Blackwell's assembler spills of eight warps, sixteen hold; before Blackwell it is the other way round.
    return Config(constants, num_warps=16 if arch >= 100 and size > 65_536 else 8)


MEMBERSHIP_LATENTS = 1 << 20
"""What the place in a 52-bit key can number."""


def membership(itemsize: int, latents: int) -> Config:
    """Of `membership_kernel`, on every architecture."""
    return Config({"PROBES": 16, "LATENTS": 1024, "LONG": is_long(itemsize, latents)}, num_warps=8)


GATHER = {2: Config({"SLOTS": 4, "COLUMNS": 512}, num_warps=2), 4: Config({"SLOTS": 8, "COLUMNS": 256}, 2)}
"""Of `gather_kernel` by bytes a number: 16-byte loads, a warp beside a warp along the row."""

COMPACT = Config({"LATENTS": 2048}, num_warps=8)

DIRECTION_WIDTHS = (1024, 2048, 4096, 8192)


def add_direction(width: int) -> Config | None:
    """Of `add_direction_kernel`: a whole token in registers."""
    columns = class_of(width, DIRECTION_WIDTHS)
    return None if columns is None else Config({"COLUMNS": columns}, num_warps=columns // 1024 * 2)


def tokens_at_once(latents: int, itemsize: int, l2: int) -> int:
    """How many tokens' pre-activations (N of them each) stay in an L2 cache of so many bytes until they are selected
    from: 512 on H100 for 24,576 latents in bfloat16. Where too few fit for a good matrix product, 1024.
    """
    fitting = l2 * 6 // 10 // max(1, latents * itemsize) // 128 * 128
    return min(fitting, 4096) if fitting >= 256 else 1024
