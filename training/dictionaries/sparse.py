"""Sparse codes and the three sums that training makes of them, each a weighted sum of table rows.

With m entries z_tf of B tokens and N latents, gather and sum cost m·d where a product with a dense code would cost
B·N·d. By token they give what the decoder says; by latent, over tables of B rows that stay in the cache, they give the
gradients of both dictionaries, whose rows are then written once and in order (ours).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Codes(NamedTuple):
    """What fires: m entries, token by token."""

    token: Tensor
    """(m) int64, rising"""
    latent: Tensor
    """(m) int64"""
    value: Tensor
    """(m) float32"""


class ByLatent(NamedTuple):
    """The same entries latent by latent, those of one latent in the order of their tokens."""

    token: Tensor
    """(m) int64"""
    value: Tensor
    """(m) float32"""
    start: Tensor
    """(N + 1) int64: latent f's entries are start[f] to start[f + 1]"""


def starts(groups: Tensor, count: int) -> Tensor:
    """Where each group's entries begin, (count + 1), from the rising or sorted group numbers (m)."""
    ends = torch.bincount(groups, minlength=count).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])


def decode(codes: Codes, rows: Tensor, tokens: int) -> Tensor:
    """Σ_f z_tf rows_f, (B, d), of dictionary rows (N, d)."""
    if len(codes.value) == 0:
        return rows.new_zeros(tokens, rows.shape[1])
    return sums(rows, codes.latent, starts(codes.token, tokens), codes.value)


def by_latent(codes: Codes, latents: int) -> ByLatent:
    """Codes sorted by latent."""
    latent, order = codes.latent.sort(stable=True)
    return ByLatent(codes.token[order], codes.value[order], starts(latent, latents))


def sums(table: Tensor, index: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """For each group the weighted sum of the table rows (R, d) that its entries name, (groups, d)."""
    return functional.embedding_bag(
        index, table, start, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def sums_and_dots(
    table: Tensor, index: Tensor, start: Tensor, weight: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """`sums`, and for each entry (m) the product of its table row with its group's row of `rows` (groups, d).

    The second is the derivative of ⟨sums, rows⟩ by the weights, and computed as such.
    """
    with torch.enable_grad():
        leaf = weight.detach().requires_grad_()
        total = sums(table, index, start, leaf)
        (dots,) = torch.autograd.grad(total, leaf, rows)
    return total.detach(), dots
