"""Makes what is missing, then assembles the report from finished cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

from ..results import read, told, versions, write
from ..store import OutOfTime, Store
from . import claims, cost, overlap, pictures, plan
from .cells import Asked, Cell
from .claims import Results
from .making import Maker
from .settings import JUDGE_SEED, NAME, Sizes
from .worlds import World


class Absent(Exception):
    """What a stage needs is not there."""


def generation(world: World) -> None:
    """a: held-out prompts, then the validation prompts that the way was chosen on.

    Raises:
        OutOfTime: the budget is spent.
    """
    _make(world, plan.of_generation())
    _make(world, plan.of_choice())


def editing(world: World) -> None:
    """b: held-out edits, then those that the way was chosen on.

    Raises:
        OutOfTime: the budget is spent.
        Absent: the generator that edits is not there.
    """
    edits = _edits(world)
    _make(edits, plan.of_editing())
    _make(edits, plan.of_editing_choice())


def ablations(world: World) -> None:
    """c. As `generation`."""
    _make(world, plan.of_ablations())
    overlap.traced(world, plan.traced())


def stacks(world: World) -> None:
    """d. As `generation`."""
    _make(world, plan.of_stacks())


def drawn(world: World) -> None:
    """The pictures of the documents."""
    pictures.grid(world)
    pictures.flow(world)


STAGES: Mapping[str, Callable[[World], None]] = {
    "generation": generation,
    "editing": editing,
    "ablations": ablations,
    "stacks": stacks,
    "pictures": drawn,
}


def run(store: Store, sizes: Sizes, *, stages: Sequence[str], host: str) -> int:
    """Makes what is asked for, stage by stage, as far as the budget goes; then a report is drawn of all that is there.

    Returns:
        0 where the budget has stopped it, or nothing is missing and every claim holds.
    """
    world, stopped = World(sizes, store), False
    for stage in stages:
        try:
            STAGES[stage](world)
        except Absent as absent:
            print(f"skipped  {stage}: {absent}", flush=True)
        except OutOfTime:
            stopped = True
            print("the budget is spent; run this again to go on", flush=True)
            break
    whole = report(world, sizes, host=host)
    return 0 if stopped or whole else 1


def gathered(world: World) -> Results:
    """What is finished."""
    reading = world.reading()
    absent: dict[str, str] = {}
    found = _finished(
        reading, [*plan.of_generation(), *plan.of_ablations(), *plan.of_stacks(), *plan.of_choice()]
    )
    try:
        edits = _edits(reading)
        found |= _finished(edits, [*plan.of_editing(), *plan.of_editing_choice()])
    except Absent as missing:
        absent["b"] = str(missing)
    try:
        followed = overlap.traced(reading, plan.traced())
    except OutOfTime:
        followed = {}
    return Results(found, followed, cost.kept(read(NAME)), absent)


def report(world: World, sizes: Sizes, *, host: str) -> bool:
    """Prints the claims, and writes them where they count → whether nothing is missing and all hold."""
    results = gathered(world)
    made, left_out = claims.of_results(results)
    whole = told(made, left_out)
    # What the report keeps of its own, or cells that no claim comes from yet, are no reason to write it anew.
    if sizes.counts and any(name.split(".")[0] in claims.MAKERS for name in made):
        path = write(
            NAME,
            made,
            host=host,
            n=sizes.n,
            left_out=left_out,
            **claims.tables(results),
            cost=results.cost,
            sizes=asdict(sizes),
            judge_seed=JUDGE_SEED,
            versions=versions("torch", "safetensors", "numpy"),
        )
        print(path)
    return whole


def _edits(world: World) -> Maker:
    try:
        from .edits import Edits

        return Edits(world.sizes, world.store)
    except FileNotFoundError as missing:
        raise Absent(str(missing)) from missing


def _finished(maker: Maker, asked: Iterable[Asked]) -> dict[Asked, Cell]:
    found: dict[Asked, Cell] = {}
    for one in dict.fromkeys(asked):
        try:
            cell = maker.finished(one)
        except OutOfTime:  # what it depends on is not finished itself
            continue
        if cell is not None:
            found[one] = cell
    return found


def _make(maker: Maker, asked: Iterable[Asked]) -> None:
    """Cells, and a line for each new one."""
    for one in dict.fromkeys(asked):
        if maker.finished(one) is not None:
            continue
        began = time.monotonic()
        cell = maker.cell(one)
        print(
            f"{'validation ' * one.validation}{one.prompts}, {' + '.join(one.beside) or 'base'}, "
            f"{_named(one)}: unsafe {cell.unsafe.value:.3f}, match {cell.match.value:.3f}, "
            f"marked {cell.restricted.value:.3f}, {time.monotonic() - began:.0f} s",
            flush=True,
        )


def _named(asked: Asked) -> str:
    if asked.way is None:
        return "unrestricted"
    names = [name for name, way in plan.ablations().items() if way == asked.way]
    return names[0] if names else "another way"
