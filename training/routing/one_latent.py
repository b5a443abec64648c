"""The operators before any autoencoder is trained: a dictionary of one latent for each risk category (ours).

    v_c = unit(mean unsafe − mean rest),    z_c = ⟨v_c, a − mean rest⟩ where it is above a benign quantile,    d_c = v_c

and the adapted row d'_c is such that Blend at strength 1 moves a typical unsafe token by mean(a⁺ − a⁻). With it Repel
and Blend run as they will with a trained dictionary, so that what they cost and what they do to benign pictures is
measured, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...steering.errors import SteeringError
from ...steering.formats.bundle import LatentTensors
from ...steering.formats.header import Category, GateThresholds, SaeSite
from ...steering.gates import Gate, GateKind
from ...steering.modifiers import Blend, Modifier, Repel
from ...steering.sae import SelectedLatents
from ..recordings.rows import require_finite

OPERATORS = {"repel": Repel, "blend": Blend}


class Contrast(NamedTuple):
    """Tokens of one category."""

    unsafe: Tensor
    """(n, d)"""
    change: Tensor | None
    """(d) mean of a⁺ − a⁻ over its pairs; None where it has none."""


def dictionary(
    categories: Mapping[str, Contrast], rest: Tensor, quantile: float = 0.99
) -> tuple[SelectedLatents, dict[str, Category]]:
    """A dictionary of C latents and the categories that hold one each.

    Args:
        rest: (m, d) tokens of benign prompts and safe rewrites.
        quantile: of their scores, above which a latent fires.

    Raises:
        SteeringError: a category or the rest has no tokens, a value is not finite, or a category's mean is the rest's.
    """
    for name, tokens in {**{name: of.unsafe for name, of in categories.items()}, "rest": rest}.items():
        if not len(tokens):
            raise SteeringError(
                f"routing: {name}",
                expected="at least one recorded token",
                found="none",
                remedy="Record prompts of this category, and benign ones.",
            )
        require_finite(tokens, f"routing: {name}")
    centre = rest.double().mean(0)
    rows, biases, thresholds, adapted = [], [], [], []
    for name, (unsafe, change) in categories.items():
        apart = unsafe.double().mean(0) - centre
        if not bool(apart.norm() > 0):
            raise SteeringError(
                f"routing: {name}",
                expected="unsafe tokens that differ from the rest",
                found="the same mean",
                remedy="Choose another site.",
            )
        v = normalize(apart, dim=0)
        bias = -(v @ centre)
        threshold = torch.quantile(rest.double() @ v + bias, quantile).clamp_min(0)
        scores = unsafe.double() @ v + bias
        fires = scores > threshold
        typical = scores[fires].mean() if bool(fires.any()) else torch.inf
        rows.append(v)
        biases.append(bias)
        thresholds.append(threshold)
        adapted.append(v if change is None else v + change.double() / typical)
    names = {name: Category((i,), (1.0,), GateThresholds(0.0, 0.0)) for i, name in enumerate(categories)}
    encoder = torch.stack(rows).float()
    tensors = LatentTensors(
        tuple(range(len(rows))),
        encoder=encoder,
        encoder_bias=torch.stack(biases).float(),
        decoder=encoder.clone(),
        decoder_bias=torch.zeros(encoder.shape[1]),
        threshold=torch.stack(thresholds).float(),
        decoder_adapted=torch.stack(adapted).float(),
    )
    site = SaeSite(width=encoder.shape[1], latents=len(rows), activation="jumprelu", categories=names)
    return SelectedLatents(site, tensors, source="routing"), names


def modifier(
    operator: str, latents: SelectedLatents, categories: Mapping[str, Category], strength: float = 1.0
) -> Modifier:
    """An operator over a dictionary of one latent each, acting wherever one fires."""
    gate = Gate.over(GateKind.ALWAYS, dict(categories), latents.latents)
    return OPERATORS[operator](latents, gate, strength)
