"""A whole training: epochs of steps, figures, early stop, checkpoints, and what comes of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from . import checkpoint
from .activations import NotFinite
from .checkpoint import Progress
from .config import TrainingConfig
from .data import Data
from .journal import Journal, Line
from .parameters import start
from .ranks import ALONE, Ranks
from .result import Origin, TrainedSAE
from .trainer import Figures, Trainer


class Stopped(Exception):
    """Somebody asked a training to stop; its checkpoint is where it was."""


def never() -> bool:
    return False


@torch.inference_mode(False)  # a host runs its nodes without gradients
def train(
    config: TrainingConfig,
    data: Data,
    *,
    folder: Path | None = None,
    origin: Origin | None = None,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
    report: Callable[[Line], None] | None = None,
    stop: Callable[[], bool] = never,
) -> TrainedSAE:
    """Trains until the steps are made or the held-out FVU falls no longer. The same arguments give the same bits, also
    where the training was killed on the way and went on from its checkpoint.

    Args:
        folder: where checkpoints and the journal go, and are found again; None keeps nothing.
        report: called with each line of the journal, in the first process.
        stop: asked after each step; when it says so, a checkpoint is written and `Stopped` raised.

    Raises:
        SteeringError: configuration and data do not fit, or a number is not finite: the message names the step.
        Stopped: as `stop` said.
    """
    return Run(config, data, folder, origin, torch.device(device), ranks, report, stop).result()


class Run:
    """One training under way."""

    def __init__(
        self,
        config: TrainingConfig,
        data: Data,
        folder: Path | None,
        origin: Origin | None,
        device: torch.device,
        ranks: Ranks,
        report: Callable[[Line], None] | None,
        stop: Callable[[], bool],
    ) -> None:
        self.config, self.data, self.folder, self.origin = config, data, folder, origin
        self.ranks, self.report, self.stop = ranks, report, stop
        latents = config.size(data.width)
        if config.k > latents:
            raise SteeringError(
                "k",
                expected=f"at most {latents}, the number of latents",
                found=f"{config.k}",
                remedy="Choose a smaller k or more latents.",
            )
        parameters = start(data.start, latents, config.k, config.seed, config.centre, device)
        self.trainer = Trainer(config, parameters, ranks)
        self.progress = Progress(scale=parameters.scale)
        self.best: dict[str, Tensor] = {}
        self.identity = identity_of(config, origin, data.width)
        self._restore()
        self.journal = Journal(folder, self.trainer.done) if folder is not None and ranks.first else None
        self.since = time.perf_counter(), self.trainer.done

    def result(self) -> TrainedSAE:
        """Makes the steps that are left."""
        trainer, config = self.trainer, self.config
        batches = self._batches()
        while trainer.done < config.steps and not self._gave_up():
            batch = next(batches)
            try:
                figures = trainer.step(batch)
            except NotFinite as reason:
                raise self._diverged(reason) from reason
            self.progress.position += 1
            if trainer.done % config.log_every == 0 or trainer.done == config.steps:
                self._say(figures, held=False)
            if trainer.done % config.evaluate_every == 0 or trainer.done == config.steps:
                self._judge()
            stopping = self.ranks.any(self.stop())
            if stopping or (trainer.done % config.checkpoint_every == 0 and trainer.done < config.steps):
                self._save()
            if stopping:
                raise Stopped
        self._save()
        return self._finished()

    def _batches(self) -> Iterator[Tensor]:
        """Batches from where the training is, epoch after epoch."""
        while True:
            found = False
            for batch in self.data.batches(self.progress.epoch, self.progress.position):
                found = True
                yield batch
            if not found and self.progress.position == 0:
                raise SteeringError(
                    "recording",
                    expected=f"at least {self.config.batch} rows, as one batch takes",
                    found="fewer",
                    remedy="Choose a smaller batch, or record more.",
                )
            self.progress.epoch, self.progress.position = self.progress.epoch + 1, 0

    def _judge(self) -> None:
        """Held-out figures, and whether they are the best so far."""
        if len(self.data.held) == 0:
            return
        figures = self.trainer.evaluate(self.data.held)
        self._say(figures, held=True)
        if figures.fvu < (1 - self.config.gain) * self.progress.best:
            self.progress.best, self.progress.waited = figures.fvu, 0
            if self.config.patience:
                self.best = {f"best.{name}": part.clone() for name, part in self._inference().items()}
        else:
            self.progress.waited += 1

    def _gave_up(self) -> bool:
        return 0 < self.config.patience <= self.progress.waited

    def _say(self, figures: Figures, held: bool) -> None:
        now, done = time.perf_counter(), self.trainer.done
        began, before = self.since
        speed = self.config.batch * (done - before) / max(now - began, 1e-9)
        if not held:
            self.since = now, done
        rate = self.config.rate_at(done - 1, self.data.width)
        line = Line(done, *figures, rate=rate, held=held, tokens_per_second=0.0 if held else round(speed, 1))
        if self.journal is not None:
            self.journal.write(line)
        if self.report is not None and self.ranks.first:
            self.report(line)

    def _diverged(self, reason: NotFinite) -> SteeringError:
        step = self.trainer.done + 1
        kept = (
            "" if self.folder is None else f" The last checkpoint, {self.folder / checkpoint.FILE}, is kept."
        )
        return SteeringError(
            f"step {step} of the training",
            expected="finite numbers",
            found=str(reason),
            remedy="Choose a smaller learning rate, or record again with a dtype that does not overflow."
            + kept,
        )

    def _inference(self) -> dict[str, Tensor]:
        """What encoding and decoding need."""
        p, thresholds = self.trainer.parameters, self.trainer.thresholds()
        tensors = {name: p.trained()[name] for name in ("encoder", "encoder_bias", "decoder", "decoder_bias")}
        return tensors if thresholds is None else {**tensors, "threshold": thresholds}

    def _state(self) -> dict[str, Tensor]:
        """Every tensor of the training, as it is: not copies."""
        trainer = self.trainer
        state = {f"now.{name}": part for name, part in trainer.parameters.trained().items()}
        return {
            **state,
            **trainer.adam.state(),
            **self.best,
            "idle": trainer.idle,
            "batch_threshold": trainer.threshold,
            **({"gradient_length": trainer.length} if self.config.gradients == "normalised" else {}),
        }

    def _save(self) -> None:
        if self.folder is not None and self.ranks.first:
            self.progress.done = self.trainer.done
            checkpoint.save(self.folder, self._state(), self.progress, self.identity)

    def _restore(self) -> None:
        """Goes on from the checkpoint of the folder, if there is one; the first process reads it for all."""
        there = None
        if self.folder is not None and self.ranks.first:
            there = checkpoint.load(self.folder, self.identity)
        if self.ranks.any(there is not None):
            if there is not None:
                tensors, self.progress = there
                self.best = {name: part for name, part in tensors.items() if name.startswith("best.")}
                for name, part in self._state().items():
                    part.copy_(tensors[name])
                self.trainer.parameters.scale = self.progress.scale
            self._share_progress()
        if self.config.patience and self.progress.best < float("inf") and not self.best:
            self.best = {f"best.{name}": torch.empty_like(part) for name, part in self._inference().items()}
        self.ranks.share(self._state().values())
        self.trainer.done = self.progress.done

    def _share_progress(self) -> None:
        fields = [field.name for field in dataclasses.fields(Progress)]
        device = self.trainer.idle.device
        values = torch.tensor([float(getattr(self.progress, name)) for name in fields], dtype=torch.float64)
        values = values.to(device)
        self.ranks.share([values])
        whole = {"done", "epoch", "position", "waited"}
        said = {name: int(v) if name in whole else v for name, v in zip(fields, values.tolist())}
        self.progress = Progress(**said)
        self.trainer.parameters.scale = self.progress.scale

    def _finished(self) -> TrainedSAE:
        trainer, held = self.trainer, self.data.held
        use = held if len(held) else self.data.start
        final = trainer.evaluate(use)
        if self.best and self.progress.best < final.fvu:
            for name, part in self.best.items():
                self._put(name.removeprefix("best."), part)
            final = trainer.evaluate(use)
        thresholds = trainer.thresholds()
        threshold = trainer.calibrated(use) if thresholds is None else thresholds
        p = trainer.parameters
        return TrainedSAE(
            encoder=p.encoder.cpu(),
            encoder_bias=p.encoder_bias.cpu(),
            decoder=p.decoder.cpu(),
            decoder_bias=p.decoder_bias.cpu(),
            threshold=threshold.cpu(),
            input_scale=p.scale,
            k=self.config.k,
            activation="topk" if self.config.activation == "topk" else "jumprelu",
            fvu=final.fvu,
            l0=final.l0,
            dead=final.dead,
            steps=trainer.done,
            recipe=dataclasses.asdict(self.config),
            origin=self.origin,
        )

    def _put(self, name: str, part: Tensor) -> None:
        """Sets one of `_inference`'s tensors."""
        trainer = self.trainer
        if name != "threshold":
            trainer.parameters.trained()[name].copy_(part)
        elif trainer.jumps and trainer.parameters.log_threshold is not None:
            trainer.parameters.log_threshold.copy_(part.log())
        else:
            trainer.threshold.fill_(float(part[0]))


def identity_of(config: TrainingConfig, origin: Origin | None, width: int) -> str:
    """The same for trainings that would do the same, however often they look and save."""
    said = config.said()
    for name in ("log_every", "checkpoint_every"):
        del said[name]
    where = None if origin is None else [str(origin.site), origin.recording]
    text = json.dumps([said, where, width], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
