"""Claim d for directions: counterfactual weights beside the plain difference in means, on held-out pairs of the target.

The direction is estimated on the training recording and judged on the calibration recording, whose prompts and seeds
it has not seen, by how well it parts unsafe tokens from safe ones.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...steering.sites import Site
from ...training.contrasts.counterfactuals import cross, directions
from ...training.contrasts.probe import fit_probe
from ...training.contrasts.separation import compare
from ...training.recordings import Pairs
from .worlds import World

MOST = 20_000
"""Pairs of tokens."""


def inputs(world: World, target: str, site: Site) -> dict[str, Any]:
    return {**world.identity, "target": target, "site": site, "sizes": world.sizes.recorded}


def compared(world: World, target: str, site: Site) -> dict[str, Any]:
    """Areas under the ROC curve of both, and their difference with its interval over resampled pictures.

    Raises:
        OutOfTime: it is not there and the budget is spent.
    """

    def make() -> dict[str, Any]:
        fit = _pairs(world, target, site, calibration=False)
        held = _pairs(world, target, site, calibration=True)
        crossings = cross(fit_probe(fit.unsafe, fit.safe), fit.unsafe, fit.safe)
        found = directions(fit.unsafe, fit.safe, crossings.weight)
        return asdict(compare(found, held.unsafe, held.safe, held.sample_unsafe))

    return world.store.result("directions", inputs(world, target, site), make)


def _pairs(world: World, target: str, site: Site, calibration: bool) -> Pairs:
    return (world.fresh(site) if calibration else world.whole(site)).pairs(
        site, categories=[target], limit=MOST
    )
