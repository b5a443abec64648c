"""Ways in which an autoencoder may standardise each token before it encodes it.

A token a (d) becomes  x = (a − centre) / spread,  and what the decoder says in x's units means
spread · D + centre  in the activation's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

LAYER_NORM_EPSILON = 1e-5
"""Added to the deviation, not to the variance, and not when the token is restored."""


class Standardised(NamedTuple):
    """Tokens (..., d) as an autoencoder sees them, and the way back."""

    x: Tensor
    """(..., d)"""
    centre: Tensor
    """(..., 1)"""
    spread: Tensor
    """(..., 1)"""


def untouched(a: Tensor) -> Standardised:
    """The token itself."""
    return Standardised(a, a.new_zeros(()), a.new_ones(()))


def layer_norm(a: Tensor) -> Standardised:
    """Mean 0 and sample deviation 1 over the width (Gao et al., arXiv 2406.04093, released code)."""
    centre = a.mean(-1, keepdim=True)
    spread = a.std(-1, keepdim=True)
    return Standardised((a - centre) / (spread + LAYER_NORM_EPSILON), centre, spread)


def unit_rms(a: Tensor) -> Standardised:
    """Root mean square 1 over the width: norm √d; a zero token stays zero."""
    spread = a.norm(dim=-1, keepdim=True) / a.shape[-1] ** 0.5
    return Standardised(a / spread.clamp_min(torch.finfo(a.dtype).tiny), torch.zeros_like(spread), spread)


STANDARDISERS: Mapping[str, Callable[[Tensor], Standardised]] = {
    "none": untouched,
    "layer_norm": layer_norm,
    "unit_rms": unit_rms,
}
"""What `SaeSite.input_norm` may name."""
