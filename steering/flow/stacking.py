"""Several restrictions of one attention: the weights of each multiply, whatever their order.

With λ of those that renormalise, and μ of those that do not, for a query that several of them restrict (ours):

    out_i = Σ_j λ_ij μ_ij a_ij v_j / Σ_j λ_ij a_ij

Where one alone restricts a query, what it made of it stands. In the paper there is one restriction (arXiv 2606.06875).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .groups import Group
from .restrict import restricted
from .step import Acted, Attend


class Cell(NamedTuple):
    """Queries of one picture that are restricted by the same weights."""

    rows: Tensor
    """(n) int64, rising."""
    biased: Tensor | None
    """(L): the product of λ; None where nobody renormalises."""
    scaled: Tensor | None
    """(L): the product of μ; None where all renormalise."""


def stacked(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[Sequence[Group]],
    earlier: Sequence[Acted],
    *,
    renormalise: bool,
    heads: Sequence[int] | None,
    mask: Tensor | None,
    plain: Tensor,
) -> Tensor:
    """The output (R, L, h·d) of a restriction on top of earlier ones: a tensor of its own.

    Args:
        attend, q, k, v, groups, renormalise, heads, mask: see `restricted`.
        earlier: those that have acted already, in their order.
        plain: what they made of the attention.
    """
    out = plain
    by_signature: dict[tuple[int, ...], list[int]] = {}
    for head in range(q.shape[1]) if heads is None else heads:
        acting = tuple(n for n, one in enumerate(earlier) if one.heads is None or head in one.heads)
        by_signature.setdefault(acting, []).append(head)
    for acting, some in by_signature.items():
        cells = [
            _cells(row, own, renormalise, [earlier[n] for n in acting]) for row, own in enumerate(groups)
        ]
        out = _asked(attend, q, k, v, cells, None if len(some) == q.shape[1] else some, mask, out)
    chosen = slice(None) if heads is None else torch.tensor(list(heads), device=out.device)
    for one in earlier:
        if one.noise is None:
            continue
        noisy = one.noise(out.clone()).unflatten(-1, (q.shape[1], -1))
        by_head = out.unflatten(-1, (q.shape[1], -1))
        for row, own in enumerate(groups):  # where it is not, it still is what they made of it
            for group in own:
                by_head[row, group.rows[:, None], chosen] = noisy[row, group.rows[:, None], chosen]
    return out


def _cells(row: int, groups: Sequence[Group], renormalise: bool, acting: Sequence[Acted]) -> list[Cell]:
    """A picture's groups, cut along those of the earlier ones, with the products of their weights."""
    cells = [
        Cell(group.rows, *((group.weights, None) if renormalise else (None, group.weights)))
        for group in groups
    ]
    for one in acting:
        cut: list[Cell] = []
        for cell in cells:
            rest = cell.rows
            for group in one.groups[row]:
                inside = torch.isin(rest, group.rows)
                both, rest = rest[inside], rest[~inside]
                if len(both):
                    cut.append(_with(cell._replace(rows=both), group.weights, one.renormalise))
            if len(rest):
                cut.append(cell._replace(rows=rest))
        cells = cut
    return cells


def _with(cell: Cell, weights: Tensor, renormalise: bool) -> Cell:
    if renormalise:
        return cell._replace(biased=weights if cell.biased is None else cell.biased * weights)
    return cell._replace(scaled=weights if cell.scaled is None else cell.scaled * weights)


def _asked(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cells: Sequence[Sequence[Cell]],
    heads: list[int] | None,
    mask: Tensor | None,
    plain: Tensor,
) -> Tensor:
    """`plain` with the cells' queries asked anew."""
    out = plain
    for renormalise in (True, False):
        groups = [[one for cell in own if (one := _group(cell, renormalise)) is not None] for own in cells]
        if any(groups):
            out = restricted(
                attend, q, k, v, groups, renormalise=renormalise, mask=mask, heads=heads, plain=out
            )
    for row, own in enumerate(cells):
        for cell in own:
            if cell.biased is None or cell.scaled is None:
                continue
            groups = [[Group(cell.rows, cell.biased)] if at == row else [] for at in range(len(cells))]
            values = v * cell.scaled.to(v.dtype)[:, None]
            out = restricted(attend, q, k, values, groups, mask=mask, heads=heads, plain=out)
    return out


def _group(cell: Cell, renormalise: bool) -> Group | None:
    """A cell that is restricted in one way alone."""
    weights, other = (cell.biased, cell.scaled) if renormalise else (cell.scaled, cell.biased)
    return Group(cell.rows, weights) if weights is not None and other is None else None
