"""Claim b: what a ranking chooses, and how well each variant of R says what was gained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ...steering.sites import Site
from ...training.routing.ranking import (
    PUBLISHED,
    Agreement,
    Candidate,
    Ranked,
    Terms,
    Weights,
    agreement,
    best_sites,
    rank,
)
from .settings import ROUTED, TRAIN_SEED

VARIANTS: Mapping[str, Weights] = {
    "published": PUBLISHED,
    "equal": Weights(0.25, 0.25, 0.25, 0.25),
    "no cost": replace(PUBLISHED, cost=0.0),
    "no S_sem": replace(PUBLISHED, semantic=0.0),
    "no S_bind": replace(PUBLISHED, binding=0.0),
    "no S_stab": replace(PUBLISHED, stability=0.0),
    "S_sem alone": Weights(1.0, 0.0, 0.0, 0.0),
    "S_bind alone": Weights(0.0, 1.0, 0.0, 0.0),
    "S_stab alone": Weights(0.0, 0.0, 1.0, 0.0),
    "cost alone": Weights(0.0, 0.0, 0.0, 1.0),
}
"""All are computed from the same terms. Only the published weights were fixed before anything was measured."""


def sites_of(choice: str, ranked: tuple[Ranked, ...]) -> tuple[Site, ...]:
    """The sites that a choice names: `routed`, `worst`, or `random` among those that were not routed."""
    best = best_sites(ranked, len(ranked))  # all of them, best first
    if choice == "routed":
        return best[:ROUTED]
    if choice == "worst":
        return best[-ROUTED:]
    order = torch.randperm(len(best), generator=torch.Generator().manual_seed(TRAIN_SEED)).tolist()
    return tuple(best[i] for i in order if i >= ROUTED)[:ROUTED]


def agreements(found: Mapping[Candidate, Terms], gain: Mapping[Candidate, float]) -> dict[str, Agreement]:
    """How well each variant of R says what was gained."""
    return {name: agreement(rank(found, weights), gain) for name, weights in VARIANTS.items()}
