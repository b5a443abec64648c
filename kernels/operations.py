"""The kernels as callers see them: arguments are checked here, `dispatch` decides what computes.

Shapes: `x` is (..., d) activations; `rows` are (N, d), or (S, d) of selected latents, encoder or decoder rows, each
latent one row; `bias` goes with them. A call's float tensors share one dtype (float32, bfloat16, float16, float64) and
one device; thresholds may have any float dtype. Any strides are taken. Nothing is written into. Every function raises
TypeError for a wrong dtype and ValueError for a wrong shape or number, by the argument's name. No gradients.
"""

from __future__ import annotations

from torch import Tensor

from . import checks
from .chunks import Sparse
from .dispatch import module_for


def encode_topk(x: Tensor, rows: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """z = ReLU(TopK_k(W x + b)) of a whole dictionary (Gao et al., 2406.04093, eq. 3).

    Args:
        rows, bias: (N, d) and (N,).
        k: 1 to N.

    Returns:
        values (..., k), falling and at least 0, and indices (..., k) int64 of the k largest pre-activations; of equal
        ones the lowest index comes first.

    Raises:
        ValueError: besides shapes, x, rows or bias are not finite.
    """
    checks.refuse_encoder(x, rows, bias)
    checks.refuse_k(k, rows.shape[0])
    return module_for("encode_topk", x, rows.shape[0], k=k).encode_topk(x, rows, bias, k)


def encode_threshold(
    x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, capacity: int | None = None
) -> Sparse:
    """z_f = p_f · [p_f > θ_f] of a whole dictionary, as a list of the latents that fire at each token.

    ReLU (θ = 0), JumpReLU (Rajamanoharan et al., 2407.14435, eq. 3), BatchTopK at inference (Bussmann et al.,
    2412.06410, eq. 4).

    Args:
        rows, bias: (N, d) and (N,).
        threshold: () or (N,).
        capacity: C, the width of the result; None takes as much as the busiest token needs.

    Raises:
        ValueError: besides shapes, more latents fire at a token than `capacity`, or x, rows or bias are not finite.
    """
    checks.refuse_encoder(x, rows, bias)
    checks.refuse_threshold(threshold, x, rows.shape[0])
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be at least 0, not {capacity}")
    path = module_for("encode_threshold", x, rows.shape[0])
    return path.encode_threshold(x, rows, bias, threshold, capacity)


def encode_selected(x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    """z_f = p_f · [p_f > θ_f], (..., S), of S latents: exact without the others, because each decides by itself.

    A NaN in x, rows or bias is a NaN in z.

    Args:
        rows, bias: (S, d) and (S,).
        threshold: () or (S,).
    """
    checks.refuse_encoder(x, rows, bias)
    checks.refuse_threshold(threshold, x, rows.shape[0])
    return module_for("encode_selected", x, rows.shape[0]).encode_selected(x, rows, bias, threshold)


def topk_membership(x: Tensor, rows: Tensor, bias: Tensor, selected: Tensor, k: int) -> Tensor:
    """Whether each selected latent is among the k largest of all N, (..., S) bool; of equal ones the lowest index is.

    Args:
        rows, bias: (N, d) and (N,).
        selected: (S,) int64, from 0 to N − 1.
        k: 1 to N.

    Raises:
        ValueError: besides shapes, x, rows or bias are not finite.
    """
    checks.refuse_encoder(x, rows, bias)
    checks.refuse_k(k, rows.shape[0])
    checks.refuse_elsewhere(x=x, selected=selected)
    checks.refuse_shape("selected", selected, None)
    checks.refuse_indices("selected", selected, rows.shape[0])
    path = module_for("topk_membership", x, rows.shape[0], k=k)
    return path.topk_membership(x, rows, bias, selected, k)


def decode(values: Tensor, indices: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """D(z) = Σ_i v_i d_{index_i} + b, (..., d): reads only the rows that are named.

    Args:
        values, indices: (..., k); a value of 0 may stand for nothing, an index may come twice.
        rows, bias: (N, d) and (d,).

    Raises:
        ValueError: besides shapes, an index is not from 0 to N − 1, or values, a named row or bias are not finite.
    """
    checks.refuse_unlike(rows=rows, values=values, bias=bias)
    checks.refuse_elsewhere(rows=rows, indices=indices)
    checks.refuse_shape("rows", rows, None, None)
    checks.refuse_shape("bias", bias, rows.shape[1])
    if values.dim() == 0:
        raise ValueError("values must have the shape (..., k), not ()")
    checks.refuse_shape("indices", indices, *values.shape)
    checks.refuse_indices("indices", indices, rows.shape[0])
    path = module_for("decode", rows, rows.shape[0], k=values.shape[-1])
    return path.decode(values, indices, rows, bias)


def decode_selected(z: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """D(z) = Σ_f z_f d_f + b, (..., d), of codes z (..., S) with every other latent at zero. `bias` is (d,)."""
    checks.refuse_unlike(rows=rows, z=z, bias=bias)
    checks.refuse_shape("rows", rows, None, None)
    checks.refuse_shape("bias", bias, rows.shape[1])
    checks.refuse_shape("z", z, *z.shape[:-1], rows.shape[0])
    return module_for("decode_selected", rows, rows.shape[0]).decode_selected(z, rows, bias)


def steer_selected(x: Tensor, z: Tensor, rows: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """x' = x + strength · Σ_f z_f d_f, then scaled back to the norm of x where `keep_norm`.

    A token whose z is all zero keeps its bits; a NaN in z or in a row that acts is a NaN in x'.

    Args:
        z: (..., S) codes.
        rows: (S, d) directions, such as decoder rows.
    """
    checks.refuse_unlike(x=x, z=z, rows=rows)
    checks.refuse_shape("x", x, *z.shape[:-1], rows.shape[-1])
    checks.refuse_shape("rows", rows, z.shape[-1], x.shape[-1])
    path = module_for("steer_selected", x, rows.shape[0])
    return path.steer_selected(x, z, rows, strength, keep_norm)


def encode_and_steer(
    x: Tensor,
    encoder: Tensor,
    bias: Tensor,
    threshold: Tensor,
    directions: Tensor,
    strength: float,
    keep_norm: bool = False,
) -> Tensor:
    """`steer_selected` by the codes of `encode_selected`, in one pass over x where the path fuses it.

    A token at which no latent passes its threshold keeps its bits.

    Args:
        encoder, bias: (S, d) and (S,).
        threshold: () or (S,).
        directions: (S, d), such as decoder rows.
    """
    checks.refuse_encoder(x, encoder, bias)
    checks.refuse_threshold(threshold, x, encoder.shape[0])
    checks.refuse_unlike(x=x, directions=directions)
    checks.refuse_shape("directions", directions, *encoder.shape)
    path = module_for("encode_and_steer", x, encoder.shape[0])
    return path.encode_and_steer(x, encoder, bias, threshold, directions, strength, keep_norm)


def add_direction(x: Tensor, direction: Tensor, strength: float, keep_norm: bool = False) -> Tensor:
    """x' = x + strength · v, with v (d,), then scaled back to the norm of x where `keep_norm`."""
    checks.refuse_unlike(x=x, direction=direction)
    checks.refuse_scalar(x)
    checks.refuse_shape("direction", direction, x.shape[-1])
    return module_for("add_direction", x, 1).add_direction(x, direction, strength, keep_norm)


def project_out(x: Tensor, basis: Tensor, strength: float = 1.0, keep_norm: bool = False) -> Tensor:
    """x' = x − strength · Σ_s ⟨x, b_s⟩ b_s with rows b_s (S, d): a projection where they are orthonormal."""
    checks.refuse_unlike(x=x, basis=basis)
    checks.refuse_scalar(x)
    checks.refuse_shape("basis", basis, None, x.shape[-1])
    return module_for("project_out", x, basis.shape[0]).project_out(x, basis, strength, keep_norm)
