"""The terms of routing for every candidate, and the cells that measure what steering there gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...steering.sites import Site
from ...training.routing.candidates import measure
from ...training.routing.ranking import (
    PUBLISHED,
    Candidate,
    Ranked,
    Terms,
    Weights,
    rank,
)
from .arms import SAFEDIG, Use
from .asking import Asked
from .worlds import World


def _inputs(world: World, target: str) -> dict[str, Any]:
    sizes = world.sizes.routed
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

    return _read(world.store.result("routing", _inputs(world, target), make))


def finished(world: World, target: str) -> dict[Candidate, Terms] | None:
    """The terms, if they are there."""
    made = world.store.found("routing", _inputs(world, target))
    return None if made is None else _read(made)


def ranking(found: Mapping[Candidate, Terms], weights: Weights = PUBLISHED) -> tuple[Ranked, ...]:
    return rank(found, weights)


def asked(target: str, candidate: Candidate, gate: str) -> Asked:
    """The cell that measures a candidate: SafeDIG there alone."""
    return Asked(target, "target", SAFEDIG, (candidate.site,), Use(candidate.operator, gate=gate))


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _read(made: Mapping[str, Any]) -> dict[Candidate, Terms]:
    return {Candidate(Site.parse(site), operator): Terms(**of) for site, operator, of in made["terms"]}
