"""One cell: a set of prompts, generated one way and judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...host.attach import attach_bundle
from ...steering.errors import SteeringError
from ...steering.sites import Site
from .arms import Recipe, Use
from .cells import Cell
from .parts import bundle_of, made_from, steered
from .pictures import Watcher, closed_batch, digests, drawn
from .prompting import ATTACKS, judged
from .worlds import World

Gates = Sequence[tuple[Site, Recipe]]
"""Which gates are watched: each of a site's bundle."""


@dataclass(frozen=True)
class Asked:
    """Which cell; no recipe is the model as it is."""

    target: str
    prompts: str
    """One of prompting.SETS or ATTACKS."""
    recipe: Recipe | None = None
    sites: tuple[Site, ...] = ()
    use: Use = Use("repel")
    few: bool = False
    """The first of the set alone, for a cell that is read over all rotations."""

    def inputs(self, world: World, gates: Gates) -> dict[str, Any]:
        """All that the cell depends on: with steering its bundles, without it the gates that are watched."""
        bundles = gates if self.recipe is None else [(site, self.recipe) for site in sorted(self.sites)]
        return {
            **world.identity,
            "target": self.target,
            "prompts": self.prompts,
            "n": self.n(world),
            "seed": world.sizes.judged_by,
            "bundles": [made_from(world, self.target, site, recipe) for site, recipe in bundles],
            "use": None if self.recipe is None else self.use,
        }

    def n(self, world: World) -> int:
        return world.sizes.few if self.few else world.sizes.n


def unsteered(target: str, prompts: str) -> Asked:
    """The model as it is, on as many prompts of a set as any cell asks for."""
    return Asked(target, prompts, few=prompts in ATTACKS)


def gates_of(asked: Iterable[Asked]) -> Gates:
    """All gates that cells ask for, each once."""
    found = {a.recipe.gate_at(site): (site, a.recipe) for a in asked if a.recipe for site in a.sites}
    return [found[name] for name in sorted(found)]


def cell(world: World, asked: Asked, gates: Gates) -> Cell:
    """A cell, made if it is not there yet.

    Args:
        gates: of all cells of these prompts in the rotation, so that its unsteered pictures are made once.

    Raises:
        OutOfTime: it is not there and the budget is spent.
        SteeringError: a picture that no gate touched is another when it is made again.
    """
    make = partial(_unsteered if asked.recipe is None else _steered, world, asked, gates)
    return Cell.of(world.store.result("cells", asked.inputs(world, gates), make))


def finished(world: World, asked: Asked, gates: Gates) -> Cell | None:
    """A cell if it is there."""
    made = world.store.found("cells", asked.inputs(world, gates))
    return None if made is None else Cell.of(made)


def _unsteered(world: World, asked: Asked, gates: Gates) -> dict[str, Any]:
    prompts = judged(asked.prompts, asked.target, asked.n(world), world.sizes.judged_by)
    opened = {recipe.gate_at(site): [False] * len(prompts) for site, recipe in gates}
    told: list[int] = []
    model = world.model
    for site, recipe in gates:
        bundle = bundle_of(world, asked.target, site, recipe)
        if bundle is None:
            continue

        def hear(place: int, of: list[bool]) -> None:
            of[told[place]] = True

        own = partial(hear, of=opened[recipe.gate_at(site)])
        model = attach_bundle(model, bundle, lambda latents, gate, own=own: Watcher(latents, gate, own))
    world.store.budget.check()  # making the bundles may have taken what was left
    found = drawn(world, model, prompts, told)
    return {
        "unsafe": [bool(x) for x in found.unsafe()],
        "kept": [bool(x) for x in found.kept()],
        "strangeness": [round(x, 6) for x in found.strangeness.tolist()],
        "digests": digests(found.latents),
        "seconds": found.seconds,
        "gates": opened,
    }


def _steered(world: World, asked: Asked, gates: Gates) -> dict[str, Any]:
    assert asked.recipe is not None
    sites = sorted(asked.sites)
    model = steered(world, asked.target, sites, asked.recipe, asked.use)
    whole = unsteered(asked.target, asked.prompts)
    base = cell(world, whole, gates)
    n = asked.n(world)
    prompts = judged(asked.prompts, asked.target, whole.n(world), world.sizes.judged_by)[:n]
    names = [asked.recipe.gate_at(site) for site in sites]
    opened = [asked.use.gate == "always" or any(base.gates[name][i] for name in names) for i in range(n)]
    if model is None:
        opened = [False] * n
    made: dict[str, Any] = {
        name: list(getattr(base, name)[:n]) for name in ("unsafe", "kept", "strangeness", "digests")
    }
    changed = [i for i in range(n) if opened[i]]
    seconds = 0.0
    if changed:
        found = drawn(world, model, [prompts[i] for i in changed])
        seconds = found.seconds
        fresh = found.unsafe(), found.kept(), found.strangeness.tolist(), digests(found.latents)
        for i, unsafe, kept, strange, digest in zip(changed, *fresh):
            made["unsafe"][i], made["kept"][i] = bool(unsafe), bool(kept)
            made["strangeness"][i], made["digests"][i] = round(strange, 6), digest
    again = closed_batch(world, prompts, opened) if asked.prompts == "benign" and model is not None else []
    if again:
        _require_same(world, asked, model, [prompts[i] for i in again], [base.digests[i] for i in again])
    return made | {"seconds": seconds, "opened": opened, "made_again": len(again)}


def _require_same(world: World, asked: Asked, model: Any, prompts: Sequence[Any], known: list[str]) -> None:
    """Makes a batch of pictures that no gate touched with the steered model after all."""
    found = digests(drawn(world, model, prompts).latents)
    if found != known:
        raise SteeringError(
            f"{world.architecture} {asked}",
            expected="pictures with closed gates to be the unsteered ones, to the bit",
            found=f"{sum(a != b for a, b in zip(found, known))} of {len(known)} that differ",
            remedy="This is a fault of the benchmark; please report it.",
        )
