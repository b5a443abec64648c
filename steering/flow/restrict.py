"""Restricted attention, exactly, from ordinary attention calls: the L × L matrix is never built.

With a_ij the softmax weights of query i, and λ_ij = λ_g(j) for all i of a group g (groups.py):

    renormalised     out_i = Σ_j λ_ij a_ij v_j / Σ_j λ_ij a_ij     = attention with the bias log λ_g(j) on the scores
    unrenormalised   out_i = Σ_j λ_ij a_ij v_j                     = attention with the values λ_g(j) v_j

Two ways lead there. GROUPS asks each group's queries in a call of its own; a bias or a scaled V belongs to the whole
group, so it is one row of L numbers. (Small groups share a call, with as many rows of bias as they have queries.)
DIMENSIONS asks all queries at once and carries the bias in a few more head
dimensions, q' = [q, 1_g], k' = [k, log λ_g], so that kernels without a mask keep working. After UVR (arXiv 2606.06875),
whose weights these are; the two ways are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from .groups import Group, span_of
from .step import Attend

ALIGNED = 8
"""Head widths are multiples of it: fused kernels ask for that."""
FULL = 768
"""Queries of a call, from which on torch's attention takes large blocks of them on the CPU. Smaller calls in single
precision are filled up with others, which cost no more there than in a call of their own, in sequences where they are a
small part. In half precision, where a call costs little for each query, that gains nothing."""
JOINED = 1024
"""Groups of together at most so many queries share a call: small calls cost more for each query than large ones do."""
CACHED = 10 * 2**20
"""Bytes of queries at a time on the CPU, in whole heads: what is gathered of them is still there when it is asked."""
RUN = 8
"""Rows that follow one another, in the mean: from so many on they are copied run by run."""
CUT_OFF = -1000.0
"""Stands for log 0 among head dimensions, where −∞ · 0 would be NaN; e to its power is 0 even in float64."""


class Way(str, Enum):
    """How restricted attention is computed. The result is the same, up to rounding."""

    GROUPS = "groups"
    DIMENSIONS = "dimensions"
    """Only the renormalised form; the other falls back to groups."""


def restricted(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[Sequence[Group]],
    *,
    renormalise: bool = True,
    mask: Tensor | None = None,
    heads: Sequence[int] | None = None,
    plain: Tensor | None = None,
    whole_calls: bool = False,
    way: Way = Way.GROUPS,
) -> Tensor:
    """The output of restricted attention (R, L, h·d).

    Args:
        attend: see `Attend`.
        q, k, v: (R, h, L, d); k and v may have fewer heads, each for as many of q's.
        groups: of each of the R rows, on q's device; none leaves the row as it is.
        mask: the incoming one, (L, L), (R or 1, L or 1, L) or (R or 1, h or 1, L or 1, L), additive or bool.
        heads: which are restricted; None is all of them.
        plain: `attend(q, k, v, mask)`, where it was asked before.
        whole_calls: all queries go through one call first, whatever is restricted.

    Returns:
        `plain`, or the very tensor of `attend(q, k, v, mask)`, where there are no groups; else a tensor of its own, in
        which rows without groups have the bits of the plain call.
    """
    if not any(groups):
        return attend(q, k, v, mask) if plain is None else plain
    if way is Way.DIMENSIONS and renormalise and plain is None and all(groups) and not whole_calls:
        return _widened(attend, q, k, v, groups, mask, heads)
    chosen = None if heads is None else list(heads)
    if plain is None and all(groups) and not whole_calls and chosen is None:
        return _apart(attend, q, k, v, groups, renormalise, mask)
    length, width = q.shape[2], q.shape[3]
    out = (attend(q, k, v, mask) if plain is None else plain).clone()
    for row, own in enumerate(groups):
        own_values = v[row : row + 1]
        scaled = None
        if not renormalise:
            scaled = Scaled(own_values if chosen is None else _heads(own_values, q, chosen))
        for call in _calls(own, renormalise, q.dtype):
            if chosen is None:
                _put(out[row], call.at, _part(attend, q, k, v, row, call, mask, scaled))
                continue
            found = _part(
                attend, q[:, chosen], _heads(k, q, chosen), _heads(v, q, chosen), row, call,
                mask if mask is None else _of_heads(mask, chosen), scaled,
            )  # fmt: skip
            by_head = out[row].view(length, q.shape[1], width)
            rows = torch.arange(length, device=q.device)[call.at]
            by_head[rows[:, None], torch.tensor(chosen, device=q.device)] = found.view(
                len(rows), len(chosen), width
            )
    return out


def _apart(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[Sequence[Group]],
    renormalise: bool,
    mask: Tensor | None,
) -> Tensor:
    """Every query is asked once: the groups', and all others in a call of their own."""
    count, length, width = q.shape[1:]
    out = q.new_empty(q.shape[0], length, count * width)
    calls: list[Sequence[Call]] = []
    for own in groups:
        own, rest = list(own), _others(own, length, q.device)
        if renormalise and _is_filled(q) and (more := _filling(own, rest)) is not None:
            own.append(more)
            rest = rest[len(more.rows) :]
        others = [Call(rest if (span := span_of(rest)) is None else span)] if len(rest) else []
        calls.append([*others, *_calls(own, renormalise, q.dtype)])
    for heads in _at_a_time(q, k):
        for row, own in enumerate(calls):
            keys, values = _heads(k, q, heads), _heads(v, q, heads)
            scaled = None if renormalise else Scaled(values[row : row + 1])
            there = out[row, :, heads.start * width : heads.stop * width]
            of_heads = mask if mask is None else _of_heads(mask, heads)
            for call in own:
                _put(there, call.at, _part(attend, q[:, heads], keys, values, row, call, of_heads, scaled))
    return out


def _at_a_time(q: Tensor, k: Tensor) -> Sequence[slice]:
    """Heads whose queries are asked together: on the CPU few, so that what a call gathers stays in its cache."""
    count = q.shape[1]
    each = count // k.shape[1]  # that share a head of keys
    few = CACHED // (q.shape[2] * q.shape[3] * q.element_size() * each or 1)
    step = count if q.device.type != "cpu" else each * max(1, few)
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


class Scaled:
    """Values of one picture times the weights of one group after another: only what differs is scaled anew."""

    def __init__(self, values: Tensor) -> None:
        self._values = values  # (1, h', L, d)
        self._made: tuple[Tensor, Tensor] | None = None

    def by(self, weights: Tensor) -> Tensor:
        """Values times weights (L); the tensor of the last call may be written over."""
        weights = weights.to(self._values.dtype)
        if self._made is None:
            self._made = self._values * weights[:, None], weights
            return self._made[0]
        made, before = self._made
        rows = (weights != before).nonzero()[:, 0]
        made[:, :, rows] = self._values[:, :, rows] * weights[rows][:, None]
        self._made = made, weights
        return made


def _is_filled(q: Tensor) -> bool:
    return q.device.type == "cpu" and q.element_size() >= 4


def _filling(groups: Sequence[Group], rest: Tensor) -> Group | None:
    """The first of the other rows, with weights of 1, that groups may share a call of a good size; None: no need."""
    there = sum(len(group.rows) for group in groups)
    if there >= FULL or len(rest) < 5 * FULL:
        return None
    rows = rest[: FULL - there]
    return Group(rows, torch.ones_like(groups[0].weights))


class Call(NamedTuple):
    """Queries of one picture that are asked together."""

    at: slice | Tensor
    """(n) places in the joint sequence."""
    log: Tensor | None = None
    """(1, 1, n, L) what is added to their scores: −∞ where the flow is cut off."""
    factors: Tensor | None = None
    """(L) what the values are multiplied by."""


def _calls(groups: Sequence[Group], renormalise: bool, dtype: torch.dtype) -> Sequence[Call]:
    """The groups of one picture by the calls that they are asked in."""
    if not renormalise:
        return [Call(group.at, factors=group.weights) for group in groups]
    if len(groups) > 1 and sum(len(group.rows) for group in groups) <= JOINED:
        log = torch.cat([_log(group, dtype) for group in groups], 2)
        return [Call(torch.cat([group.rows for group in groups]), log)]
    return [Call(group.at, _log(group, dtype)) for group in groups]


def _log(group: Group, dtype: torch.dtype) -> Tensor:
    """log λ (1, 1, n, L), one row of memory."""
    return group.weights.log().to(dtype).expand(1, 1, len(group.rows), -1)


def _put(out: Tensor, at: slice | Tensor, found: Tensor) -> None:
    """Writes rows of a picture's output (L, h·d)."""
    if isinstance(at, slice):
        out[at] = found
        return
    starts = [0, *((at.diff() != 1).nonzero()[:, 0] + 1).tolist()] if at.device.type == "cpu" else []
    if not starts or len(starts) * RUN > len(at):
        out.index_copy_(0, at, found)
        return
    first = at[starts].tolist()
    for start, stop, place in zip(
        starts, [*starts[1:], len(at)], first
    ):  # whole runs are copied faster than rows
        out[place : place + stop - start] = found[start:stop]


def _part(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    row: int,
    call: Call,
    mask: Tensor | None,
    scaled: Scaled | None = None,
) -> Tensor:
    """What a call's queries of one picture attend to (n, h·d), one after another."""
    q, k, v = q[row : row + 1], k[row : row + 1], v[row : row + 1]
    q = q[:, :, call.at] if isinstance(call.at, slice) else q.index_select(2, call.at)
    bias = None if mask is None else _of_rows(mask, row, call.at, q.shape[2], q.dtype)
    if call.log is not None:
        bias = call.log if bias is None else bias + call.log
    if call.factors is not None:
        v = (scaled or Scaled(v)).by(call.factors)
    return attend(q, k, v, bias)[0]


def _widened(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[Sequence[Group]],
    mask: Tensor | None,
    heads: Sequence[int] | None,
) -> Tensor:
    """All queries in one call, the bias in further head dimensions: two for each group, as q's dtype may be coarse."""
    rows, count, length, width = q.shape
    most = max(map(len, groups))
    wide = width + math.ceil(2 * most / ALIGNED) * ALIGNED
    scale = math.sqrt(wide)  # attention divides by it
    one = torch.tensor(scale).to(q.dtype)  # what q' can hold of it
    queries = q.new_zeros(rows, count, length, wide)
    keys = k.new_zeros(rows, k.shape[1], length, wide)
    values = v.new_zeros(rows, v.shape[1], length, wide)
    torch.mul(q, scale / math.sqrt(width), out=queries[..., :width])
    keys[..., :width], values[..., :width] = k, v
    chosen = slice(None) if heads is None else list(heads)
    for row, own in enumerate(groups):
        for number, group in enumerate(own):
            at = width + 2 * number
            log = group.weights.double().log().clamp(min=CUT_OFF) * (scale / float(one))
            high = log.to(k.dtype)
            keys[row, :, :, at] = high
            keys[row, :, :, at + 1] = (log - high).to(k.dtype)
            marked = q.new_zeros(length)
            marked[group.at] = one.to(q.device)
            queries[row, chosen, :, at : at + 2] = marked[:, None]
    out = attend(queries, keys, values, mask)
    return out.view(rows, length, count, wide)[..., :width].reshape(rows, length, count * width)


def _others(groups: Sequence[Group], length: int, device: torch.device) -> Tensor:
    """The rows of no group."""
    free = torch.ones(length, dtype=torch.bool, device=device)
    for group in groups:
        free[group.rows] = False
    return free.nonzero()[:, 0]


def _heads(x: Tensor, q: Tensor, heads: list[int] | slice) -> Tensor:
    """Those heads of keys or values (R, h', L, d) that these of q's attend to; of a slice a view."""
    if isinstance(heads, slice):
        each = q.shape[1] // x.shape[1]
        return x[:, heads.start // each : heads.stop // each]
    return x[:, [head * x.shape[1] // q.shape[1] for head in heads]]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask as (R or 1, h or 1, n or 1, L) numbers that are added to the scores."""
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 3:
        mask = mask[:, None]
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)
    return mask.to(dtype)


def _of_heads(mask: Tensor, heads: list[int] | slice) -> Tensor:
    return mask[:, heads] if mask.ndim == 4 and mask.shape[1] > 1 else mask


def _of_rows(mask: Tensor, row: int, rows: slice | Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """An incoming mask for some queries of one picture: (1, h or 1, n, L)."""
    own = additive(mask, dtype)
    own = own[row : row + 1] if own.shape[0] > 1 else own
    return own[:, :, rows] if own.shape[2] > 1 else own.expand(-1, -1, count, -1)
