"""What is right: every kernel in plain torch, on any device, as its equation says.

Shapes: `x` is (..., d) activations, `rows` are (N, d) or (S, d) encoder or decoder rows, `bias` goes with them.
Everything is computed in x's dtype and on its device, and nothing is written into.

Encoders that compare latents with each other, and `decode`, refuse numbers that are not finite: a NaN has no rank.
The others let a NaN through into their result, so that the caller, who may look once for many calls, sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .checks import refuse_not_finite
from .chunks import Sparse, padded, pre_activations


def encode_topk(x: Tensor, rows: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """z = ReLU(TopK_k(p)), p = W x + b; of equal p the lowest index comes first (Gao et al., 2406.04093, eq. 3).

    Returns:
        values (..., k), falling and at least 0, and indices (..., k) int64.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    for pre in pre_activations(x, rows, bias):  # (T, N)
        refuse_not_finite(pre, x=x, rows=rows, bias=bias)
        value, index = pre.sort(dim=-1, descending=True, stable=True)
        kept.append((value[:, :k].relu(), index[:, :k]))
    values, indices = (torch.cat(part).view(*x.shape[:-1], k) for part in zip(*kept))
    return values, indices


def encode_threshold(
    x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, capacity: int | None = None
) -> Sparse:
    """z_f = p_f · [p_f > θ_f] as a list of the latents that fire: ReLU (θ = 0), JumpReLU, thresholded BatchTopK."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for pre in pre_activations(x, rows, bias):  # (T, N)
        refuse_not_finite(pre, x=x, rows=rows, bias=bias)
        fires = pre > threshold
        found.append((pre[fires], fires.nonzero()[:, 1], fires.sum(-1)))
    return padded(found, x.shape[:-1], capacity)


def encode_selected(x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    """z_f = p_f · [p_f > θ_f], (..., S): exact with any subset of rows, because each latent decides by itself."""
    pre = functional.linear(x, rows, bias)
    return pre * (pre > threshold)


def topk_membership(x: Tensor, rows: Tensor, bias: Tensor, selected: Tensor, k: int) -> Tensor:
    """s ∈ TopK_k(p) ⇔ #{j : p_j > p_s or (p_j = p_s and j < s)} < k: rank by counting, (..., S) bool."""
    parts: list[Tensor] = []
    before = torch.arange(rows.shape[0], device=x.device)
    for pre in pre_activations(x, rows, bias):  # (T, N)
        refuse_not_finite(pre, x=x, rows=rows, bias=bias)
        ranks = [
            ((pre > pre[:, s, None]) | ((pre == pre[:, s, None]) & (before < s))).sum(-1)
            for s in selected.tolist()
        ]
        parts.append(torch.stack(ranks, dim=-1) < k if ranks else before.new_zeros(len(pre), 0).bool())
    return torch.cat(parts).view(*x.shape[:-1], len(selected))


def decode(values: Tensor, indices: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """D(z) = Σ_i v_i d_{index_i} + b, (..., d), summed in at least float32 and rounded once."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    total = torch.zeros(*values.shape[:-1], rows.shape[1], dtype=exact, device=values.device)
    for at in range(values.shape[-1]):
        total = total + values[..., at, None].to(exact) * rows[indices[..., at]].to(exact)
    total = (total + bias.to(exact)).to(rows.dtype)
    refuse_not_finite(total, values=values, rows=rows, bias=bias)
    return total


def decode_selected(z: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """D(z) = Σ_f z_f d_f + b, (..., d), of the codes (..., S) of a few latents with every other at zero."""
    return z @ rows + bias


def steer_selected(x: Tensor, z: Tensor, rows: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """x' = x + strength · Σ_f z_f d_f, then scaled back to the norm of x where `keep_norm`.

    A token whose z is zero keeps its bits.
    """
    return torch.where((z != 0).any(-1, keepdim=True), _moved(x, strength * (z @ rows), keep_norm), x)


def encode_and_steer(
    x: Tensor,
    encoder: Tensor,
    bias: Tensor,
    threshold: Tensor,
    directions: Tensor,
    strength: float,
    keep_norm: bool = False,
) -> Tensor:
    """`steer_selected` by the codes that `encode_selected` gives: one read and one write of x where it is fused."""
    return steer_selected(x, encode_selected(x, encoder, bias, threshold), directions, strength, keep_norm)


def add_direction(x: Tensor, direction: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """x' = x + strength · v, with v (d,), then scaled back to the norm of x where `keep_norm`."""
    return _moved(x, strength * direction, keep_norm)


def project_out(x: Tensor, basis: Tensor, strength: float = 1.0, keep_norm: bool = False) -> Tensor:
    """x' = x − strength · Σ_s ⟨x, b_s⟩ b_s with rows b_s (S, d): a projection where they are orthonormal."""
    return _moved(x, -strength * (functional.linear(x, basis) @ basis), keep_norm)


def _moved(x: Tensor, step: Tensor, keep_norm: bool) -> Tensor:
    """x + step; with `keep_norm` each token has its Euclidean norm in x, and a zero vector stays zero."""
    moved = x + step
    if not keep_norm:
        return moved
    exact = torch.promote_types(x.dtype, torch.float32)  # in float16 a long vector's norm is infinite
    before, after = (t.norm(dim=-1, keepdim=True, dtype=exact) for t in (x, moved))
    # Divided first, as the ratio of the norms may overflow.
    return (moved / after.clamp_min(torch.finfo(exact).tiny) * before).to(x.dtype)
