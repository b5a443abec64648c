"""Adapts a decoder to a target domain while its encoder stays as it is, by Adam on the loss of terms.py.

Memory holds a batch and three tables of the decoder's size, whatever the recordings' size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ..dictionaries.adam import Adam
from ..dictionaries.checkpoint import Progress, load, save
from ..latents.codes import Dictionary
from .terms import AdaptationConfig, Examples, Losses, frozen_rows, terms

ENCODER = ("encoder", "encoder_bias", "threshold", "decoder_bias")
"""What the encoder is made of: none of it may change."""

JUDGED_EPOCH = 2**31 - 1
"""The epoch whose first batches are judged by: no run is so long."""


class Stream(Protocol):
    """Batches in an order that (epoch) alone decides."""

    def __call__(self, epoch: int, skip: int) -> Iterator[Examples]:
        """All batches of an epoch after the first ``skip``."""
        ...


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adapted decoder."""

    decoder: Tensor
    """(N, d) W_t, in the units of the source's; rows that were not to change are the source's to the bit."""
    before: Losses
    after: Losses
    steps: int


@torch.inference_mode(False)  # a host runs its nodes in it, and Adam writes in place
@torch.no_grad()
def adapt(
    sae: Dictionary,
    target: Stream,
    source: Stream | None,
    config: AdaptationConfig = AdaptationConfig(),
    *,
    latents: Sequence[int] | None = None,
    folder: Path | None = None,
    every: int = 200,
    data: str = "",
    progress: Callable[[int, Losses], None] | None = None,
) -> Adapted:
    """Adapt a decoder by Adam on batches. Deterministic; a run that was stopped goes on from its last checkpoint.

    Args:
        source: replayed activations of the source domain, in ``inputs``; needed unless replay or stability is off.
        latents: the only rows that may change; None is all.
        folder: where checkpoints go, one each ``every`` steps; None keeps none.
        data: identity of the data: a checkpoint of other data is refused.
        progress: hears (steps made, the step's losses) at each step; it may raise to stop.

    Raises:
        SteeringError: there is no source though it is to be replayed, an activation or a loss is not finite, the
            encoder has changed, or the checkpoint is of another run.
    """
    if config.replays and source is None:
        raise SteeringError(
            "adaptation: replay",
            expected="a recording of the source domain",
            found="none",
            remedy="Connect one, or set replay to 0.",
        )
    before = {name: getattr(sae, name).clone() for name in ENCODER}
    decoder = sae.decoder.clone()
    change = torch.zeros_like(decoder)
    adam = Adam({"change": change})
    frozen = frozen_rows(len(decoder), latents)
    identity = identity_of(sae, config, latents, data)
    course = _Course(target)
    replayed = None if source is None or not config.replays else _Course(source)
    done = 0
    found = None if folder is None else load(folder, identity)
    if found is not None:
        tensors, place = found
        done = place.done
        change.copy_(tensors["change"])
        for name, tensor in adam.state().items():
            tensor.copy_(tensors[name])
        course.at(tensors["target"])
        if replayed is not None:
            replayed.at(tensors["source"])
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def judge(change: Tensor) -> Losses:
        seen = None if source is None else source(JUDGED_EPOCH, 0)
        return judged(sae, change, target(JUDGED_EPOCH, 0), seen, config)

    start = judge(torch.zeros_like(change))
    for step in range(done, config.steps):
        rows = None if replayed is None else next(replayed).inputs
        losses, gradient = terms(sae, change, next(course), rows, config)
        if not math.isfinite(losses.total):
            raise SteeringError(
                f"adaptation: step {step + 1}",
                expected="a finite loss",
                found=f"{losses.total}",
                remedy="Lower the rate; the decoder before this run is unchanged.",
            )
        gradient[frozen] = 0
        adam.move("change", slice(None), gradient, config.rate * (1 - step / config.steps), step)
        done = step + 1
        if folder is not None and (done % every == 0 or done == config.steps):
            places = {"target": course.place} | ({} if replayed is None else {"source": replayed.place})
            save(folder, {"change": change, **adam.state(), **places}, Progress(done=done), identity)
        if progress is not None:
            progress(done, losses)
    require_frozen(sae, before)
    return Adapted(decoder + change, start, judge(change), done)


def judged(
    sae: Dictionary,
    change: Tensor,
    target: Iterable[Examples],
    source: Iterable[Examples] | None,
    config: AdaptationConfig,
    batches: int = 8,
) -> Losses:
    """The mean of L's terms over the first batches of both.

    Raises:
        SteeringError: there is no target batch.
    """
    replayed = iter(() if source is None or not config.replays else source)
    found: list[Losses] = []
    for _, examples in zip(range(batches), target):
        rows = next(replayed, None)
        found.append(terms(sae, change, examples, None if rows is None else rows.inputs, config)[0])
    if not found:
        raise SteeringError(
            "adaptation: target",
            expected="at least one batch",
            found="none",
            remedy="Record the target domain.",
        )
    return Losses(*(math.fsum(column) / len(found) for column in zip(*found)))


def require_frozen(sae: Dictionary, before: dict[str, Tensor]) -> None:
    """A SteeringError unless all of the encoder is as it was, to the bit."""
    for name, tensor in before.items():
        if not torch.equal(getattr(sae, name), tensor):
            raise SteeringError(
                f"adaptation: {name}",
                expected="the encoder as it was, to the bit",
                found="another",
                remedy="Something wrote into the autoencoder while its decoder was adapted; load it again.",
            )


class _Course:
    """A stream without end, epoch after epoch, that knows its place."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.epoch, self.position = 0, 0
        self._batches: Iterator[Examples] | None = None

    @property
    def place(self) -> Tensor:
        return torch.tensor([self.epoch, self.position])

    def at(self, place: Tensor) -> None:
        """Go on from a place."""
        self.epoch, self.position = place.tolist()
        self._batches = None

    def __next__(self) -> Examples:
        for _ in range(2):
            if self._batches is None:
                self._batches = self.stream(self.epoch, self.position)
            batch = next(self._batches, None)
            if batch is not None:
                self.position += 1
                return batch
            self.epoch, self.position, self._batches = self.epoch + 1, 0, None
        raise SteeringError(
            "adaptation: rows", expected="at least one batch", found="none", remedy="Choose a smaller batch."
        )


def identity_of(sae: Dictionary, config: AdaptationConfig, latents: Sequence[int] | None, data: str) -> str:
    """The same for runs that do the same; `data` names what they learn from."""
    digest = hashlib.sha256(
        json.dumps([asdict(config), None if latents is None else sorted(latents), data]).encode()
    )
    for name in (*ENCODER, "decoder"):
        digest.update(getattr(sae, name).detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
