"""The adapted decoder for Blend: what each unsafe latent should have said (ours; after SafeDIG's decoder adaptation).

SafeDIG freezes the encoder and adapts the decoder to the target's safe side. With paired activations a⁻ (unsafe prompt)
and a⁺ (its safe rewrite, same seed, noise level and token) the change of the decoder rows H has a closed form,

    ΔW = argmin Σ ‖(a⁺ − a⁻) − z_H ΔW‖² + λ ‖ΔW‖²,    z = E(a⁻),

and every other row stays as it was: the stability term in its limit, so that tokens on which no latent of H fires are
reconstructed as before.
"""

from __future__ import annotations

import torch
from torch import Tensor


def counterparts(z: Tensor, unsafe: Tensor, safe: Tensor, ridge: float = 0.05) -> Tensor:
    """Latents z (n, S) of the unsafe activations, both sides (n, d) → ΔW (S, d), in float64 inside.

    ``ridge`` is λ as a share of the mean of the latents' second moments. Raises ValueError where no latent fires.
    """
    rows = (z > 0).any(1)
    if not rows.any():
        raise ValueError(
            "none of the selected latents fires on the unsafe activations: select others, or record more prompts"
        )
    z64, delta = z[rows].double(), (safe[rows].double() - unsafe[rows].double())
    moments = z64.T @ z64
    moments += ridge * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    return torch.linalg.solve(moments, z64.T @ delta).float()
