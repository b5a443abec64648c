"""Adapts autoencoders to a target domain that was recorded, with the source domain's recording replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.sites import Site
from ..alone import alone
from ..assembling import origin_of
from ..dictionaries.checkpoint import tidy
from ..dictionaries.job import digest_of
from ..dictionaries.result import TrainedSAE
from ..recordings import Pairs, Recording
from ..recordings.categories import MOST_BYTES, category_of
from ..selection.choosing import require_fitting
from .steps import Stream, adapt, identity_of, judged
from .terms import AdaptationConfig, Examples, Losses, solve

SAFE_SIDE = ("safe", "benign")
LESSONS = ("pairs", "safe side")
"""From unsafe tokens to their safe rewrites (ours); or the reconstruction of the safe side, as the paper says."""
METHODS = ("auto", "closed form", "steps")
MOST_AUTO = 2048
"""Latents up to which the closed form is chosen."""
PIECE = 4096
"""Rows at a time in the closed form."""


class Outcome(NamedTuple):
    """An autoencoder with its adapted decoder, and how far L fell."""

    sae: TrainedSAE
    before: Losses
    after: Losses
    how: str
    """Which method was used, for people."""


def adapt_sae(
    sae: TrainedSAE,
    target: Recording,
    source: Recording | None,
    config: AdaptationConfig = AdaptationConfig(),
    *,
    lesson: str = "pairs",
    categories: Collection[str] | None = None,
    latents: Sequence[int] | None = None,
    acting: Mapping[str, Sequence[int]] | None = None,
    method: str = "auto",
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Adapt the decoder of an autoencoder at its site.

    Args:
        target: the domain to adapt to.
        source: the domain that it was trained on, replayed; needed unless replay or stability is off.
        lesson: one of LESSONS.
        categories: of the target's pairs; None is all.
        latents: the only rows that may change; None is all.
        acting: pairs: by category, the latents that act where its gate is open; None is all, in every category.
        method: one of METHODS. The closed form sees all rows once; steps sees batches, in bounded memory.
        checkpoints: a folder in which each run of steps has its own, from which it goes on.
        progress: hears (steps made, steps in all); it may raise to stop.

    Raises:
        SteeringError: a recording lacks the site or what the lesson needs, or see `adapt`.
    """
    site = origin_of(sae).site
    for name, value, known in (("lesson", lesson, LESSONS), ("method", method, METHODS)):
        if value not in known:
            raise SteeringError(
                f"adaptation: {name}",
                expected=f"one of {', '.join(known)}",
                found=repr(value),
                remedy="Choose one.",
            )
    for recording in (target, source):
        if recording is not None:
            require_fitting(sae, recording, site)
    rows, replayed = config.rows
    if lesson == "pairs":
        most = MOST_BYTES // (8 * sae.width)
        pairs = target.pairs(site, categories=categories, limit=most, seed=config.seed)
        masks = None if acting is None else _masks(target, pairs, acting, sae.latents)
        stream = towards_safe(pairs, rows, config.seed, masks)
    else:
        stream = rows_of(target, site, rows, config.seed, categories=categories)
    replay = None
    if source is not None and config.replays:
        replay = rows_of(source, site, replayed, config.seed)
    count = sae.latents if latents is None else len(latents)
    if method == "closed form" or (method == "auto" and count <= MOST_AUTO):

        def pieces() -> Iterable[Examples]:
            return stream(0, 0) if lesson == "pairs" else _pieces(target, site, categories)

        def replayed_pieces() -> Iterable[Examples]:
            return () if source is None or not config.replays else _pieces(source, site, None)

        if config.replays and source is None:
            raise SteeringError(
                "adaptation: replay",
                expected="a recording of the source domain",
                found="none",
                remedy="Connect one, or set replay to 0.",
            )
        decoder = solve(sae, pieces(), (piece.inputs for piece in replayed_pieces()), config, latents)
        change = decoder - sae.decoder
        before, after = (
            judged(sae, it, pieces(), replayed_pieces(), config) for it in (torch.zeros_like(change), change)
        )
        return Outcome(dataclasses.replace(sae, adapted=decoder, path=None), before, after, "closed form")
    data = " ".join(
        [
            digest_of(target),
            "" if source is None else digest_of(source),
            str(site),
            lesson,
            str(categories),
            *(f"{name}: {sorted(of)}" for name, of in sorted((acting or {}).items())),
        ]
    )
    folder = None if checkpoints is None else checkpoints / identity_of(sae, config, latents, data)[:16]
    with nullcontext() if folder is None else _alone(folder):
        found = adapt(
            sae,
            stream,
            replay,
            config,
            latents=latents,
            folder=folder,
            data=data,
            progress=None if progress is None else lambda step, _: progress(step, config.steps),
        )
    return Outcome(
        dataclasses.replace(sae, adapted=found.decoder, path=None),
        found.before,
        found.after,
        f"{found.steps} steps",
    )


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """A folder of checkpoints for this process, without what others that were killed have left half written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise SteeringError(
            str(folder),
            expected="a folder that can be written",
            found=reason.strerror or str(reason),
            remedy="Check its permissions and the free space.",
        ) from reason
    with alone(folder / ".lock", "adaptation"):
        tidy(folder)
        yield


def rows_of(
    recording: Recording,
    site: Site,
    batch: int,
    seed: int = 0,
    *,
    labels: Collection[str] | None = SAFE_SIDE,
    categories: Collection[str] | None = None,
) -> Stream:
    """Activations of some prompts of a recording, by default of the safe side: safe rewrites and benign prompts.

    The stream raises SteeringError where the recording has fewer such rows than a batch, or lacks the site.
    """

    def batches(epoch: int, skip: int) -> Iterator[Examples]:
        stream = recording.stream(
            site, batch, seed=seed, epoch=epoch, labels=labels, categories=categories, skip=skip
        )
        return (Examples(rows.tokens) for rows in stream)

    return batches


class Masks(NamedTuple):
    """Which latents act at which rows."""

    kind: Tensor
    """(n) the number of each row's category"""
    latents: Tensor
    """(categories, N) bool"""


def _masks(recording: Recording, pairs: Pairs, acting: Mapping[str, Sequence[int]], latents: int) -> Masks:
    member = torch.zeros(len(acting) + 1, latents, dtype=torch.bool)
    for row, of in enumerate(acting.values()):
        member[row, list(of)] = True
    place: dict[str | None, int] = {name: row for row, name in enumerate(acting)}
    none = len(acting)  # the last row: of categories without latents
    kind = [place.get(category_of(sample), none) for sample in recording.manifest.samples]
    return Masks(torch.tensor(kind)[pairs.sample_unsafe], member)


def towards_safe(pairs: Pairs, batch: int, seed: int = 0, masks: Masks | None = None) -> Stream:
    """Unsafe activations with the way to their safe rewrites. The last batch of an epoch may be smaller.

    Raises:
        SteeringError: there are no pairs.
    """
    if not len(pairs.unsafe):
        raise SteeringError(
            "recording: pairs",
            expected="unsafe tokens beside those of their safe rewrites",
            found="none",
            remedy="Record unsafe prompts with their safe rewrites, or adapt to the safe side alone.",
        )

    def batches(epoch: int, skip: int) -> Iterator[Examples]:
        draw = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(pairs.unsafe), generator=draw)
        for rows in order[skip * batch :].split(batch):
            if len(rows):
                acting = None if masks is None else masks.latents[masks.kind[rows]]
                yield Examples(pairs.unsafe[rows], pairs.safe[rows] - pairs.unsafe[rows], acting)

    return batches


def _pieces(recording: Recording, site: Site, categories: Collection[str] | None) -> Iterator[Examples]:
    """All rows of the safe side once."""
    for rows in recording.shards(site, labels=SAFE_SIDE, categories=categories):
        yield from (Examples(part) for part in rows.tokens.split(PIECE) if len(part))
