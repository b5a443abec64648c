"""Sparse codes of selected latents, and edits along their decoder rows: the reference, in plain torch.

Shapes: `x` is (..., d) activations, `rows` are (S, d) encoder or decoder rows, `z` is (..., S) codes. Every
function computes in x's dtype and writes into nothing that it was given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def encode_selected(x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    """z_f = p_f · [p_f > θ_f], with p_f = ⟨w_f, x⟩ + b_f: ReLU (θ = 0), JumpReLU, thresholded BatchTopK.

    Exact with any subset of a dictionary's rows, because each latent decides by itself. A NaN in x stays a
    NaN in z.

    Args:
        bias, threshold: (S,).

    Returns:
        (..., S)
    """
    pre = functional.linear(x, rows, bias)
    return pre * (pre > threshold)


def encode_topk(x: Tensor, rows: Tensor, bias: Tensor, k: int) -> Tensor:
    """z = TopK_k(ReLU(p)): only the k largest of all latents of a token stay. `rows` must be the whole dictionary."""
    pre = torch.relu(functional.linear(x, rows, bias))
    value, index = pre.topk(min(k, pre.shape[-1]), dim=-1)  # (..., k)
    return torch.zeros_like(pre).scatter(-1, index, value)


def decode(z: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """D(z) = Σ_f z_f d_f + b, (..., d). `bias` is (d,)."""
    return z @ rows + bias


def steer_selected(x: Tensor, z: Tensor, rows: Tensor, strength: float, keep_norm: bool) -> Tensor:
    """x' = x + strength · Σ_f z_f d_f, then scaled back to the norm of x where `keep_norm`.

    A token whose z is zero keeps its bits.
    """
    steered = x + strength * (z @ rows)
    if keep_norm:
        steered = _with_norm_of(x, steered)
    return torch.where((z != 0).any(-1, keepdim=True), steered, x)


def _with_norm_of(x: Tensor, changed: Tensor) -> Tensor:
    """`changed`, each token scaled to the Euclidean norm of its token in x; a zero vector stays zero."""
    tiny = torch.finfo(x.dtype).tiny
    return changed * (x.norm(dim=-1, keepdim=True) / changed.norm(dim=-1, keepdim=True).clamp_min(tiny))
