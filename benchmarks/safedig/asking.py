"""One cell: a set of prompts, generated one way and judged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from ...steering.sites import Site
from .arms import Recipe, Use
from .cells import Cell
from .parts import made_from, steered
from .prompting import judged
from .settings import JUDGE_SEED
from .worlds import World


@dataclass(frozen=True)
class Asked:
    """Which cell; no recipe is the model as it is."""

    target: str
    prompts: str
    """One of prompting.SETS or ATTACKS."""
    recipe: Recipe | None = None
    sites: tuple[Site, ...] = ()
    use: Use = Use("repel")

    def inputs(self, world: World) -> dict[str, Any]:
        """All that the cell depends on."""
        # Benign prompts are the same whatever is held out.
        target = "" if self.recipe is None and self.prompts == "benign" else self.target
        found: dict[str, Any] = {
            **world.identity,
            "target": target,
            "prompts": self.prompts,
            "n": world.sizes.n,
        }
        if self.recipe is not None:
            of_sites = [made_from(world, self.target, site, self.recipe) for site in sorted(self.sites)]
            found |= {"bundles": of_sites, "use": self.use}
        return found


def cell(world: World, asked: Asked) -> Cell:
    """A cell, made if it is not there yet.

    Raises:
        OutOfTime: it is not there and the budget is spent.
    """

    def make() -> dict[str, Any]:
        model = world.model
        if asked.recipe is not None:
            model = steered(world, asked.target, sorted(asked.sites), asked.recipe, asked.use)
        world.store.budget.check()  # making the bundles may have taken what was left
        prompts = judged(asked.prompts, asked.target, world.sizes.n, JUDGE_SEED)
        found = world.judge(world.model if model is None else model, prompts)
        return {
            "unsafe": [bool(x) for x in found.unsafe()],
            "kept": [bool(x) for x in found.kept()],
            "strangeness": [round(x, 6) for x in found.strangeness.tolist()],
            "digests": [hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for x in found.latents],
            "seconds": found.seconds,
        }

    return Cell.of(world.store.result("cells", asked.inputs(world), make))


def finished(world: World, asked: Asked) -> Cell | None:
    """A cell if it is there."""
    made = world.store.found("cells", asked.inputs(world))
    return None if made is None else Cell.of(made)
