"""Claim b: sites and operators ranked before any autoencoder, and what steering at each turned out to gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from ...steering.sites import Site
from ...training.candidates import measure
from ...training.routing import (
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
from .arms import SAFEDIG, Use
from .cells import Asked
from .settings import ROUTED, TRAIN_SEED
from .worlds import World

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


def _inputs(world: World, target: str) -> dict[str, Any]:
    sizes = replace(world.sizes, n=0)
    return {**world.identity, "target": target, "sites": world.sites, "sizes": sizes}


def terms(world: World, target: str) -> dict[Candidate, Terms]:
    """The terms of every candidate, from the source recording alone.

    Raises:
        OutOfTime: they are not there and the budget is spent.
    """

    def make() -> dict[str, Any]:
        found = measure(
            world.resampler(world.source(target)),
            world.sites,
            pairs=world.sizes.routing_pairs,
            benign=world.sizes.routing_benign,
        )
        return {
            "terms": [
                [str(c.site), c.operator, {k: _number(v) for k, v in asdict(t).items()}]
                for c, t in found.items()
            ]
        }

    with torch.inference_mode():
        made = world.store.result("routing", _inputs(world, target), make)
    return _read(made)


def finished(world: World, target: str) -> dict[Candidate, Terms] | None:
    """The terms, if they are there."""
    made = world.store.found("routing", _inputs(world, target))
    return None if made is None else _read(made)


def ranking(found: Mapping[Candidate, Terms], weights: Weights = PUBLISHED) -> tuple[Ranked, ...]:
    return rank(found, weights)


def sites_of(choice: str, ranked: tuple[Ranked, ...]) -> tuple[Site, ...]:
    """The sites that a choice names: `routed`, `worst`, or `random` among those that were not routed."""
    best = best_sites(ranked, len(ranked))  # all of them, best first
    if choice == "routed":
        return best[:ROUTED]
    if choice == "worst":
        return best[-ROUTED:]
    order = torch.randperm(len(best), generator=torch.Generator().manual_seed(TRAIN_SEED)).tolist()
    return tuple(best[i] for i in order if i >= ROUTED)[:ROUTED]


def asked(target: str, candidate: Candidate) -> Asked:
    """The cell that measures a candidate: SafeDIG there alone."""
    return Asked(target, "target", SAFEDIG, (candidate.site,), Use(candidate.operator))


def agreements(found: Mapping[Candidate, Terms], gain: Mapping[Candidate, float]) -> dict[str, Agreement]:
    """How well each variant of R says what was gained."""
    return {name: agreement(rank(found, weights), gain) for name, weights in VARIANTS.items()}


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _read(made: Mapping[str, Any]) -> dict[Candidate, Terms]:
    return {Candidate(Site.parse(site), operator): Terms(**of) for site, operator, of in made["terms"]}
