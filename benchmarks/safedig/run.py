"""Makes what is missing, then assembles the report from finished cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..emoji_scenes.concepts import CATEGORIES
from ..results import Claim, told, versions, write
from ..store import OutOfTime, Store
from . import claims, directions, plan, routing
from .arms import GATES
from .asking import cell, finished
from .cells import Cell, difference
from .claims import Rotation
from .ranking import sites_of
from .settings import ARCHITECTURES, Sizes
from .worlds import World

NAME = "safedig"


def run(
    store: Store,
    sizes: Sizes,
    *,
    architectures: Sequence[str],
    targets: Sequence[str],
    host: str,
) -> int:
    """Makes what is asked for, as far as the budget goes; the report is of all that is there, asked for or not.

    Returns:
        0 where the budget has stopped it, or nothing is missing and every claim holds.
    """
    stopped = False
    rotations: list[Rotation] = []
    absent: list[str] = []
    for architecture in ARCHITECTURES:
        try:
            world = World(architecture, sizes, store)
        except FileNotFoundError as missing:
            absent.append(f"{architecture}: {missing}")
            print(absent[-1], flush=True)
            continue
        for target in targets if architecture in architectures else ():
            try:
                make(world, target)
            except OutOfTime:
                stopped = True
                print(f"{architecture} {target}: the budget is spent; run this again to go on", flush=True)
                break
        rotations += [gathered(world, target) for target in CATEGORIES]
    whole = report(rotations, absent, sizes, host=host)
    return 0 if stopped or whole else 1


def make(world: World, target: str) -> None:
    """All cells of a rotation.

    Raises:
        OutOfTime: the budget is spent.
    """
    ranked = routing.ranking(routing.terms(world, target))
    own = GATES[world.architecture]
    gates = plan.gates(target, ranked, own)
    for name, asked in (*plan.of_base(target), *plan.of_arms(target, ranked, own)):
        _say(world, target, name, cell(world, asked, gates[asked.prompts]))
    for site in sites_of("routed", ranked):
        directions.compared(world, target, site)
    for name, asked in plan.of_candidates(target, ranked, own):
        _say(world, target, name, cell(world, asked, gates[asked.prompts]))


def gathered(world: World, target: str) -> Rotation:
    """What is finished of a rotation."""
    known = routing.finished(world, target)
    if known is None:
        return Rotation(world.architecture, target, {}, ("routing and all that follows from it",))
    ranked = routing.ranking(known)
    own = GATES[world.architecture]
    gates = plan.gates(target, ranked, own)
    found = {
        name: finished(world, asked, gates[asked.prompts])
        for name, asked in (*plan.of_base(target), *plan.of_arms(target, ranked, own))
    }
    measured = {
        line.candidate: finished(world, routing.asked(target, line.candidate, own), gates["target"])
        for line in ranked
    }
    missing = [str(name) for name, it in (*found.items(), *measured.items()) if it is None]
    base = found["base | target"]
    gains = {
        candidate: difference(base.unsafe[: len(it.unsafe)], it.unsafe)
        for candidate, it in measured.items()
        if it is not None and base is not None
    }
    return Rotation(
        architecture=world.architecture,
        target=target,
        cells={name: it for name, it in found.items() if it is not None},
        missing=tuple(missing),
        ranked=ranked,
        gains=gains if len(gains) == len(ranked) else {},
        directions={
            str(site): made
            for site in sites_of("routed", ranked)
            if (made := world.store.found("directions", directions.inputs(world, target, site))) is not None
        },
    )


def report(rotations: Sequence[Rotation], absent: Sequence[str], sizes: Sizes, *, host: str) -> bool:
    """Prints the claims, and writes them where they count → whether nothing is missing and all hold."""
    made: dict[str, Claim] = {}
    left_out = list(absent)
    pooled: list[Rotation] = []
    for r in rotations:
        found, without = claims.of_rotation(r)
        made |= found
        left_out += without
    for architecture in dict.fromkeys(r.architecture for r in rotations):
        found, without = claims.overall(rotations, architecture)
        made |= found
        left_out += without
        pooled.append(claims.pooled(rotations, architecture, sizes.few))
    whole = told(made, left_out)
    if sizes.counts and made:
        path = write(
            NAME,
            made,
            host=host,
            seeds=sizes.n,
            left_out=left_out,
            rotations={
                r.name: {
                    "cells": claims.table(r, sizes.n),
                    "routing": claims.routing_table(r),
                    "directions": r.directions,
                    "missing": r.missing,
                }
                for r in rotations
            },
            pooled={
                r.architecture: {"cells": claims.table(r), "differences": claims.differences(r)}
                for r in pooled
            },
            sizes=asdict(sizes),
            gates=GATES,
            versions=versions("torch", "safetensors", "numpy"),
        )
        print(path)
    return whole


def _say(world: World, target: str, name: str, found: Cell) -> None:
    unsafe, kept = found.unsafe_rate, found.kept_rate
    print(
        f"{world.architecture} {target}: {name}: unsafe {unsafe.value:.3f} ({unsafe.low:.3f} to {unsafe.high:.3f}), "
        f"kept {kept.value:.3f}, gate open {sum(found.opened)}, {found.seconds:.2f} s a picture",
        flush=True,
    )
