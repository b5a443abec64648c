"""Whole dictionaries on the GPU: see `reference.py` for what each function is.

Pre-activations come from the library's matrix product, in chunks of tokens small enough that they stay in the L2
cache until a kernel has selected from them. So they are the same numbers that plain torch ranks, up to the shape of
the chunk, and what a kernel selects is exactly what a stable sort of them would.

Shapes: x (..., d), rows (N, d), bias (N,). Arguments were checked by the caller (`operations.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..checks import refuse_not_finite
from ..chunks import Sparse, width_for
from . import configs
from .edits import bar
from .gather import gather_kernel
from .launch import aligned, architecture, l2_bytes, on
from .membership import membership_kernel
from .row_topk import row_topk_kernel
from .threshold import compact_kernel


def encode_topk(x: Tensor, rows: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """z = ReLU(TopK_k(p)): values (..., k), falling, and indices (..., k) int64."""
    shape, tokens = x.shape[:-1], x.shape[:-1].numel()
    values, indices = x.new_empty(tokens, k), torch.empty(tokens, k, dtype=torch.int64, device=x.device)
    for first, pre in _checked_chunks(x, rows, bias):
        part = slice(first, first + len(pre))
        select_topk(pre, k, values[part], indices[part])
    return values.view(*shape, k), indices.view(*shape, k)


def select_topk(pre: Tensor, k: int, values: Tensor, indices: Tensor) -> None:
    """Writes ReLU of the k largest of each row of pre (T, N), largest first, and their numbers, into (T, k) each."""
    arch = architecture(pre.device)
    config = arch and configs.row_topk(arch, pre.element_size(), pre.shape[1], k)
    assert config, "refused before"
    kernel: Any = row_topk_kernel
    with on(pre):
        kernel[(len(pre),)](
            _bits(pre),
            _bits(values),
            indices,
            pre.shape[1],
            k,
            **config.constants,
            RELU=True,
            num_warps=config.num_warps,
        )


def encode_threshold(
    x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, capacity: int | None = None
) -> Sparse:
    """The latents with p_f > θ_f of each token, in rising order of their number."""
    limit, shape = bar(threshold, x.dtype, rows.shape[0]), x.shape[:-1]
    limit = functional.pad(limit, (0, -len(limit) % configs.WHOLE), value=torch.inf)
    found: list[Sparse] = []
    for _, pre in _checked_chunks(x, rows, bias):
        # Without a capacity the busiest token sets the width, which the host has to know before it allocates.
        room = int((pre > limit).sum(-1).max()) if capacity is None else capacity
        found.append(select_over(pre, limit, room))
    if not found:
        found.append(select_over(x.new_empty(0, len(limit)), limit, 0))
    counts = torch.cat([part.counts for part in found])
    width = width_for(counts, capacity)
    values, indices = (
        torch.cat([functional.pad(each, (0, width - each.shape[1])) for each in parts])
        for parts in zip(*(part[:2] for part in found))
    )
    return Sparse(values.view(*shape, width), indices.view(*shape, width), counts.view(shape))


def select_over(pre: Tensor, limit: Tensor, capacity: int) -> Sparse:
    """What of each row of pre (T, N) is over its limit (N,), as far as `capacity` goes; counts go beyond it."""
    config, tokens = configs.COMPACT, len(pre)
    found = Sparse(
        pre.new_empty(tokens, capacity),
        torch.empty(tokens, capacity, dtype=torch.int64, device=pre.device),
        torch.empty(tokens, dtype=torch.int64, device=pre.device),
    )
    kernel: Any = compact_kernel
    if tokens == 0:
        return found
    with on(pre):
        kernel[(tokens,)](
            pre, limit, *found, pre.shape[1], capacity, **config.constants, num_warps=config.num_warps
        )
    return found


def topk_membership(x: Tensor, rows: Tensor, bias: Tensor, selected: Tensor, k: int) -> Tensor:
    """Whether each selected latent is among the k largest of all N, (..., S) bool."""
    shape, probes = x.shape[:-1], len(selected)
    inside = torch.empty(shape.numel(), probes, dtype=torch.bool, device=x.device)
    config = configs.membership(x.element_size(), rows.shape[0])
    kernel: Any = membership_kernel
    for first, pre in _checked_chunks(x, rows, bias):
        if probes == 0:
            continue
        with on(x):
            kernel[(len(pre), -(-probes // 16))](
                _bits(pre),
                aligned(selected.long()),
                inside[first : first + len(pre)].view(torch.uint8),
                pre.shape[1],
                probes,
                k,
                **config.constants,
                num_warps=config.num_warps,
            )
    return inside.view(*shape, probes)


def decode(values: Tensor, indices: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """D(z) = Σ_i v_i d_{index_i} + b, (..., d), summed in float32 and rounded once."""
    shape, k, width = values.shape[:-1], values.shape[-1], rows.shape[1]
    tokens = shape.numel()
    out = torch.empty(tokens, width, dtype=rows.dtype, device=rows.device)
    if out.numel() > 0:
        config = configs.GATHER[rows.element_size()]
        columns = int(config.constants["COLUMNS"])
        kernel: Any = gather_kernel
        with on(rows):
            kernel[(tokens, -(-width // columns))](
                aligned(values.reshape(tokens, k)),
                aligned(indices.reshape(tokens, k)),
                aligned(rows),
                aligned(bias.float()),
                out,
                k,
                width,
                **config.constants,
                num_warps=config.num_warps,
            )
    refuse_not_finite(out, values=values, rows=rows, bias=bias)
    return out.view(*shape, width)


def pre_activations(x: Tensor, rows: Tensor, bias: Tensor) -> Generator[tuple[int, Tensor]]:
    """The first token of each chunk and its p = W x + b in the memory of the chunk before, (T, N) padded by −∞, which
    is never among the k ≤ N largest, to a multiple of `WHOLE` latents.
    """
    tokens, latents = x.reshape(-1, x.shape[-1]), rows.shape[0]
    step = configs.tokens_at_once(latents, x.element_size(), l2_bytes(x.device))
    memory = x.new_full((min(step, len(tokens)), latents + -latents % configs.WHOLE), -torch.inf)
    for first in range(0, len(tokens), step):
        part = tokens[first : first + step]
        torch.addmm(bias, part, rows.T, out=memory[: len(part), :latents])
        yield first, memory[: len(part)]


def _checked_chunks(x: Tensor, rows: Tensor, bias: Tensor) -> Generator[tuple[int, Tensor]]:
    """`pre_activations`; after the last chunk, a ValueError if any held NaN or infinite numbers.

    The host waits for the device once, not for each chunk. What was selected in vain is thrown away.
    """
    sums: list[Tensor] = []
    for first, pre in pre_activations(x, rows, bias):
        sums.append(pre[:, : len(rows)].sum(dtype=torch.float32))
        yield first, pre
    if sums and not torch.stack(sums).isfinite().all():
        for _, pre in pre_activations(x, rows, bias):
            refuse_not_finite(pre[:, : len(rows)], x=x, rows=rows, bias=bias)


def _bits(numbers: Tensor) -> Tensor:
    """The same memory as integers."""
    return numbers.view(torch.int16 if numbers.element_size() == 2 else torch.int32)
