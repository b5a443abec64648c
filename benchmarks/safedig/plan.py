"""Which cells there are, in the order in which they are worth having."""

from __future__ import annotations

from collections.abc import Iterator

from ...steering.sites import Site
from ...training.routing import Ranked
from .arms import ARMS, GATES, HEADLINE, SAFEDIG, UNADAPTED, Arm, Recipe, Use, attack_name, cell_name
from .asking import Asked, Gates, gates_of
from .prompting import ATTACKS, SETS
from .ranking import sites_of
from .routing import asked as of_candidate


def of_base(target: str) -> Iterator[tuple[str, Asked]]:
    """The model as it is."""
    for prompts in (*SETS, *ATTACKS):
        yield f"base | {prompts}", Asked(target, prompts)


def of_arms(target: str, ranked: tuple[Ranked, ...]) -> Iterator[tuple[str, Asked]]:
    """Claims a, c and d of a rotation: name of the cell, and the cell."""
    for name, arm in ARMS.items():
        yield from _of_arm(target, name, arm, ranked)
    routed = sites_of("routed", ranked)
    for prompts in ATTACKS:
        for name, recipe in (("SafeDIG", SAFEDIG), ("unadapted", UNADAPTED)):
            for gate in GATES if name == "SafeDIG" else GATES[:1]:
                yield attack_name(name, prompts, gate), _asked(target, prompts, recipe, routed, gate)
    # What it costs to steer without a gate.
    yield attack_name("SafeDIG", "benign", "always"), _asked(target, "benign", SAFEDIG, routed, "always")


def of_candidates(target: str, ranked: tuple[Ranked, ...]) -> Iterator[tuple[str, Asked]]:
    """Claim b of a rotation."""
    for line in ranked:
        yield str(line.candidate), of_candidate(target, line.candidate)


def gates(target: str, ranked: tuple[Ranked, ...]) -> Gates:
    """All gates of a rotation."""
    return gates_of(asked for _, asked in (*of_arms(target, ranked), *of_candidates(target, ranked)))


def _of_arm(target: str, name: str, arm: Arm, ranked: tuple[Ranked, ...]) -> Iterator[tuple[str, Asked]]:
    sites = sites_of(arm.sites, ranked)
    for method in arm.methods:
        for prompts in arm.sets(method):
            use = Use(method, arm.form)
            yield cell_name(name, method, prompts), Asked(target, prompts, arm.recipe, sites, use)


def _asked(target: str, prompts: str, recipe: Recipe, sites: tuple[Site, ...], gate: str) -> Asked:
    return Asked(target, prompts, recipe, sites, Use(HEADLINE, gate=gate))
