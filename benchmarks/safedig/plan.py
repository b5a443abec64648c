"""Which cells there are, in the order in which they are worth having."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...steering.sites import Site
from ...training.routing.ranking import Ranked
from .arms import ARMS, HEADLINE, SAFEDIG, WITH_AND_WITHOUT, Arm, Use, attack_name, cell_name
from .asking import Asked, Gates, gates_of, unsteered
from .prompting import ATTACKS, SETS
from .ranking import sites_of
from .routing import asked as of_candidate


def of_base(target: str) -> Iterator[tuple[str, Asked]]:
    """The model as it is."""
    for prompts in (*SETS, *ATTACKS):
        yield f"base | {prompts}", unsteered(target, prompts)


def of_arms(target: str, ranked: tuple[Ranked, ...], gate: str) -> Iterator[tuple[str, Asked]]:
    """Claims a, c and d of a rotation: name of the cell, and the cell. The gate is the architecture's own."""
    for name, arm in ARMS.items():
        yield from _of_arm(target, name, arm, ranked, gate)
    routed = sites_of("routed", ranked)
    for prompts in ATTACKS:
        for said, by in zip(WITH_AND_WITHOUT, (gate, "always")):
            yield attack_name("SafeDIG", prompts, said), _attacked(target, prompts, routed, by)
    # What it costs to steer without a gate.
    yield attack_name("SafeDIG", "benign", "always"), _attacked(target, "benign", routed, "always")


def of_candidates(target: str, ranked: tuple[Ranked, ...], gate: str) -> Iterator[tuple[str, Asked]]:
    """Claim b of a rotation."""
    for line in ranked:
        yield str(line.candidate), of_candidate(target, line.candidate, gate)


def gates(target: str, ranked: tuple[Ranked, ...], gate: str) -> Mapping[str, Gates]:
    """All gates of a rotation that cells ask for, by the prompts they ask it on."""
    steered = [asked for _, asked in (*of_arms(target, ranked, gate), *of_candidates(target, ranked, gate))]
    return {p: gates_of(asked for asked in steered if asked.prompts == p) for p in (*SETS, *ATTACKS)}


def _of_arm(
    target: str, name: str, arm: Arm, ranked: tuple[Ranked, ...], gate: str
) -> Iterator[tuple[str, Asked]]:
    sites = sites_of(arm.sites, ranked)
    for method in arm.methods:
        for prompts in arm.sets(method):
            asked = Asked(target, prompts, arm.recipe, sites, arm.use(method, gate), few=arm.few)
            yield cell_name(name, method, prompts), asked


def _attacked(target: str, prompts: str, sites: tuple[Site, ...], gate: str) -> Asked:
    return Asked(target, prompts, SAFEDIG, sites, Use(HEADLINE, gate=gate), few=True)
