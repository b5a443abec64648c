"""What is trained on: rows to begin with, rows to judge by, and epochs of batches in an order that the seed decides."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.sites import Site
from ..recordings.held_out import units
from ..recordings.reader import Recording, Rows
from .config import TrainingConfig
from .parameters import AT_START
from .ranks import ALONE, Ranks

FIRST_LOOK = 2**32 - 1
"""The epoch whose order decides which rows come before training: no training is so long."""


class Batches(Protocol):
    """One epoch: this process's part (b, d) of each batch, the same each time it is asked for."""

    def __call__(self, epoch: int, skip: int) -> Iterator[Tensor]:
        """All batches after the first ``skip``."""
        ...


@dataclass(frozen=True)
class Data:
    """Activations of one site. The first two are the same in all processes."""

    start: Tensor
    """(n, d) rows that decide where training begins."""
    held: Tensor
    """(m, d) rows that nothing is trained on."""
    batches: Batches

    @property
    def width(self) -> int:
        return self.start.shape[1]


def of_recording(
    recording: Recording,
    site: Site,
    config: TrainingConfig,
    ranks: Ranks = ALONE,
    labels: Collection[str] | None = None,
) -> Data:
    """A recording's rows at a site, as they stream from the disk.

    What is held out are whole prompts with their pairs, drawn by the seed; a batch is smaller by their rows.

    Args:
        labels: which prompts to learn from (unsafe, safe, benign); None is all.

    Raises:
        SteeringError: the site was not recorded, there are too few rows, or the batch cannot be shared evenly.
    """
    held_samples = held_out(recording, config)
    share = even_share(config.batch, ranks)

    def of_epoch(epoch: int, skip: int, rank: int, world: int) -> Iterator[Rows]:
        size = share if world > 1 else config.batch
        return recording.stream(
            site, size, seed=config.seed, epoch=epoch, rank=rank, world=world, labels=labels, skip=skip
        )

    def batches(epoch: int, skip: int) -> Iterator[Tensor]:
        for rows in of_epoch(epoch, skip, ranks.rank, ranks.world):
            yield rows.tokens[~held_samples[rows.sample]]

    start, held = _first_rows(of_epoch(FIRST_LOOK, 0, 0, 1), held_samples, config)
    return Data(start, held, batches)


def of_tensor(activations: Tensor, config: TrainingConfig, ranks: Ranks = ALONE) -> Data:
    """Activations (n, d) in memory.

    Raises:
        SteeringError: there are fewer rows than one batch, beside those that are held out.
    """
    share = even_share(config.batch, ranks)
    draw = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(activations), generator=draw)
    held, rows = order[: round(config.held_out * len(order))], order[round(config.held_out * len(order)) :]
    if len(rows) < config.batch:
        raise SteeringError(
            "activations",
            expected=f"at least {config.batch} rows to train on, as one batch takes",
            found=f"{len(rows)}",
            remedy="Choose a smaller batch, or record more.",
        )

    def batches(epoch: int, skip: int) -> Iterator[Tensor]:
        mixed = torch.randperm(
            len(rows), generator=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch + 1)
        )
        for first in range(skip * config.batch, len(rows) - config.batch + 1, config.batch):
            at = first + ranks.rank * share
            yield activations[rows[mixed[at : at + share]]].float()

    return Data(
        activations[rows[:AT_START]].float(), activations[held[: config.held_tokens]].float(), batches
    )


def held_out(recording: Recording, config: TrainingConfig) -> Tensor:
    """Which samples (N,) bool are held out: all those of a share of the prompts, a pair counting as one."""
    if config.held_out == 0:
        return torch.zeros(len(recording.manifest.samples), dtype=torch.bool)
    belongs = units(recording.manifest.samples)
    known = sorted(set(belongs))
    draw = torch.Generator().manual_seed(config.seed)
    count = max(1, round(config.held_out * len(known)))
    chosen = {known[at] for at in torch.randperm(len(known), generator=draw)[:count].tolist()}
    if len(known) < 2:
        raise SteeringError(
            f"{recording.folder}: samples",
            expected="at least 2 prompts, one to train on and one to judge by",
            found=f"{len(known)}",
            remedy="Record more prompts, or set held_out to 0.",
        )
    return torch.tensor([unit in chosen for unit in belongs])


def even_share(batch: int, ranks: Ranks) -> int:
    """The rows of a batch that each process takes; a SteeringError where that is no whole number."""
    if batch % ranks.world:
        raise SteeringError(
            "batch",
            expected=f"a multiple of {ranks.world}, the number of processes",
            found=f"{batch}",
            remedy=f"Choose for example {max(1, batch // ranks.world) * ranks.world}.",
        )
    return batch // ranks.world


def _first_rows(
    stream: Iterator[Rows], held_samples: Tensor, config: TrainingConfig
) -> tuple[Tensor, Tensor]:
    """The first rows to begin with, and the first that are held out."""
    wanted = {False: AT_START, True: config.held_tokens if bool(held_samples.any()) else 0}
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    missing = dict(wanted)
    for rows in stream:
        of_held = held_samples[rows.sample]
        for side, mask in ((False, ~of_held), (True, of_held)):
            part = rows.tokens[mask][: missing[side]]
            found[side].append(part)
            missing[side] -= len(part)
        if not any(missing.values()):
            break
    start, held = (torch.cat(found[side]) for side in (False, True))
    if len(start) == 0 or (wanted[True] and len(held) == 0):
        raise SteeringError(
            "recording",
            expected="rows to train on and rows that are held out",
            found=f"{len(start)} and {len(held)} of them in an epoch",
            remedy="Record more prompts, filter less, or choose another share to hold out.",
        )
    return start, held
