"""The autoencoders: one a recording and site, trained where it was left."""

from __future__ import annotations

import torch

from ...steering.sites import Site
from ...training.dictionaries.job import Job, finished, prepare, run
from ...training.dictionaries.result import TrainedSAE
from ...training.dictionaries.training import Stopped
from ...training.recordings import Recording
from ..store import OutOfTime
from .worlds import World


@torch.no_grad()  # gradients are written out
def trained(world: World, recording: Recording, site: Site) -> TrainedSAE:
    """The autoencoder of a recording at a site.

    Raises:
        OutOfTime: it is not finished and the budget is spent; its checkpoint stays.
    """
    job = Job.of(
        recording,
        site,
        config=world.sizes.training,
        device="cpu",
        threads=1,
        base=f"emoji-scenes-{world.architecture}",
        license="Apache-2.0",
    )
    folder = world.store.folder / "saes" / job.identity
    known = finished(folder)
    if known is not None:
        return known
    world.store.budget.check()
    print(f"{world.architecture}: training at {site} on {recording.folder.name}", flush=True)
    prepare(folder, job)
    try:
        sae = run(folder, stop=world.store.budget.spent)
    except Stopped as stop:
        raise OutOfTime from stop
    print(f"{world.architecture} {site}: {sae.report()}", flush=True)
    return sae
