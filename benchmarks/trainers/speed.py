"""Claims e: our tokens per second and FVU beside each peer's, on the same activations."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...training.dictionaries.config import TrainingConfig
from ..results import Claim, at_least, at_most
from ..timing import beside_each_other, described
from . import columns
from .cases import SEED, Case

HELD = 2048
PICTURES = 64
BEFORE = 2
"""Steps that `beside_each_other` makes before it measures."""


def drawn(width: int, count: int, batches: int, seed: int = SEED) -> tuple[Tensor, list[Tensor]]:
    """Held-out activations (HELD, d), and batches (count, d) that are drawn alike."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(8 * width, width, generator=draw), dim=1)
    often = 1 / (1 + torch.arange(8 * width)).float()
    mean = torch.randn(width, generator=draw)

    def some(n: int) -> Tensor:
        which = torch.multinomial(often.expand(n, -1), 24, generator=draw)
        size = 1 + torch.rand(n, 24, generator=draw)
        said = torch.nn.functional.embedding_bag(which, directions, per_sample_weights=size, mode="sum")
        noise = torch.randn(n, width, generator=draw) * (0.5 / width**0.5)
        return mean + said + noise

    return some(HELD), [some(count) for _ in range(batches)]


def recorded(folder: Path, site: str, count: int, batches: int) -> tuple[Tensor, list[Tensor]]:
    """The same of a recording, batches again from the first when it is at its end."""
    from ...steering.sites import Site
    from ...training.dictionaries.data import of_recording
    from ...training.recordings import open_recording

    config = TrainingConfig(batch=count, seed=SEED, held_tokens=HELD)
    data = of_recording(open_recording(folder), Site.parse(site), config)
    found: list[Tensor] = []
    epoch = 0
    while len(found) < batches:
        found += [batch for batch, _ in zip(data.batches(epoch, 0), range(batches - len(found)))]
        epoch += 1
    return data.held, found


def record(folder: Path) -> None:
    """Records the emoji-scenes FLUX, as the benchmark `recordings` does."""
    from .. import recordings
    from ..emoji_scenes import in_host

    with torch.inference_mode():
        recordings.Subject(in_host.generator(), in_host.text_encoder(), PICTURES).record(folder)


def measured(
    case: Case, held: Tensor, batches: list[Tensor], rows: dict[str, Any], only: list[str] | None = None
) -> dict[str, Claim]:
    """Trains all columns in turns; claims the ratio of our tokens per second to each peer's, and of FVUs."""
    mean = batches[0].mean(0)
    scale = case.width**0.5 / float(
        (batches[0] - mean).norm(dim=1).mean()
    )  # as ours would, so that rates mean the same
    batches, held = [scale * batch for batch in batches], scale * held
    trainers: dict[str, columns.Column] = {}
    for name, make in columns.COLUMNS.items():
        if (only is not None and name not in only) or (name == columns.PLAIN and not case.recorded):
            continue
        try:
            trainers[name] = make(batches[0], case.config())
        except NotImplementedError as reason:
            print(f"{case.name}: {reason}", flush=True)
    at = dict.fromkeys(trainers, 0)

    def stepper(name: str) -> Any:
        def run() -> None:
            batch = batches[at[name] % len(batches)]
            at[name] += 1
            trainers[name].step(batch)

        return run

    timings = beside_each_other({name: stepper(name) for name in trainers}, case.steps - BEFORE)
    fvus = {name: fvu(column, held) for name, column in trainers.items()}
    speeds = {name: case.batch / timing.median for name, timing in timings.items()}
    rows[case.name] = {
        **described(timings, **asdict(replace(case, dead_after=min(case.dead_after, 2**31)))),
        "fvu": fvus,
        "tokens_per_second": speeds,
    }
    claims: dict[str, Claim] = {}
    for name in trainers.keys() - {"ours", columns.PLAIN}:
        claims[f"{case.name}.{name}"] = at_least(speeds["ours"] / speeds[name], 1.0, case.steps)
        claims[f"{case.name}.{name}.fvu"] = at_most(fvus["ours"] / fvus[name], 1.01, HELD)
    return dict(sorted(claims.items()))


@torch.no_grad()
def fvu(column: columns.Column, held: Tensor) -> float:
    """Fraction of variance unexplained of held-out activations (n, d)."""
    missing = sum(float((column.reconstruct(a) - a).double().square().sum()) for a in held.split(512))
    return missing / float((held - held.mean(0)).double().square().sum())
