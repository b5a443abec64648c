"""A training as a folder: what was asked (`job.json`), how far it is, and what came of it (`sae.safetensors`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...steering.errors import SteeringError
from ...steering.formats.fields import LICENSE, SHA256, Field, parse_json
from ...steering.formats.whole import whole_file
from ...steering.sites import Site
from ..alone import alone
from ..recordings.manifest import FILE as MANIFEST
from ..recordings.manifest import LABELS
from ..recordings.reader import Recording, open_recording
from .checkpoint import tidy
from .config import TrainingConfig
from .data import of_recording
from .journal import Line
from .mixing import crossing_tokens, with_tokens
from .ranks import ALONE, Ranks
from .result import Origin, TrainedSAE, read_trained, write_trained
from .training import never, train

FILE = "job.json"
RESULT = "sae.safetensors"
LOCK = ".lock"
PATIENCE = 20.0
"""Seconds that a training whose parent is no more has to write its checkpoint, when another begins in its folder."""

REMEDY = "Choose another folder, or delete this one to train anew."


@dataclass(frozen=True)
class Job:
    """What is trained on what."""

    recording: Path
    """Its folder."""
    digest: str
    """Of its manifest, and so of its shards."""
    site: Site
    config: TrainingConfig = TrainingConfig()
    labels: tuple[str, ...] | None = None
    """Prompts to learn from: unsafe, safe, benign; None is all."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Of the processor; 0 is all but one."""
    base: str = "not said"
    """Name of the checkpoint that was recorded."""
    license: str = "LicenseRef-unknown"
    """Of the result."""
    counterfactuals: float = 0.0
    """Share of each batch that is tokens around the crossing from unsafe to safe; see mixing.py."""

    def __post_init__(self) -> None:
        if not 0 <= self.counterfactuals < 1:
            raise SteeringError(
                "counterfactuals",
                expected="a share of each batch, from 0 to below 1",
                found=f"{self.counterfactuals}",
                remedy="Try 0.1; 0 is none.",
            )

    @classmethod
    def of(cls, recording: Recording, site: Site, **rest: Any) -> Job:
        """A job on an opened recording.

        Raises:
            SteeringError: the site was not recorded.
        """
        recording.count(site)
        return cls(recording.folder.absolute(), digest_of(recording), site, **rest)

    @property
    def identity(self) -> str:
        """The same for jobs that do the same: short enough for a folder's name."""
        said = [self.digest, str(self.site), self.labels, self.config.said()]
        said += [self.counterfactuals] if self.counterfactuals else []  # there were trainings before it
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def text(self) -> str:
        """The JSON that `parse` reads back."""
        value = {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "recording": str(self.recording),
            "site": str(self.site),
            "config": self.config.said(),
        }
        if not self.counterfactuals:
            del value["counterfactuals"]
        return json.dumps(value, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, file: str, remedy: str = REMEDY) -> Job:
        """Raises SteeringError that names the field."""
        root = Field(
            file, "", parse_json(text, file, error=SteeringError, remedy=remedy), SteeringError, remedy
        )
        names = [field.name for field in dataclasses.fields(cls)]
        mixed = names.pop()
        fields = root.record(" ".join(names), mixed)
        config = {name: entry.value for name, entry in fields["config"].mapping().items()}
        return cls(
            recording=Path(fields["recording"].text()),
            digest=fields["digest"].matching(SHA256, "a sha256"),
            site=Site.parse(fields["site"].text()),
            config=TrainingConfig.parse({"gradients": "plain", **config}, f"{file}: config"),
            labels=fields["labels"].optional(_labels),
            device=fields["device"].one_of(("auto", "cpu", "cuda")),
            threads=fields["threads"].integer(0, 4096),
            base=fields["base"].text(),
            license=fields["license"].matching(LICENSE, "an SPDX licence expression, such as Apache-2.0"),
            counterfactuals=fields[mixed].number(0.0, 1.0) if mixed in fields else 0.0,
        )


def prepare(folder: Path, job: Job) -> Job:
    """Makes the folder of a job, or finds it again; what comes back is what will be trained.

    How many threads were chosen at first stays: another number could round otherwise.

    Raises:
        SteeringError: a field cannot be, the folder holds another job, or it cannot be written.
    """
    Job.parse(
        job.text(), "job", "Correct it."
    )  # what the end of a training would refuse is refused before it begins
    path = folder / FILE
    if path.exists():
        there = Job.parse(path.read_bytes(), str(path))
        same = dataclasses.replace(job, threads=there.threads, device=there.device)
        if there.text() != same.text():
            raise SteeringError(
                str(path),
                expected="the job that is asked for",
                found=f"another, which differs in {', '.join(_differences(there, same))}",
                remedy=REMEDY,
            )
        return there
    job = dataclasses.replace(job, threads=job.threads or max(1, (os.cpu_count() or 2) - 1))
    with whole_file(path, SteeringError) as partial:
        partial.write_text(job.text(), encoding="utf-8")
    return job


def run(
    folder: Path,
    *,
    ranks: Ranks = ALONE,
    device: torch.device | str = "cpu",
    report: Callable[[Line], None] | None = None,
    stop: Callable[[], bool] = never,
) -> TrainedSAE:
    """Trains a prepared job in this process, from where it is, and writes its result.

    Raises:
        SteeringError: recording, site or configuration do not fit, a number is not finite, the disk is full, or another
            process trains in this folder.
        Stopped: as `stop` said; the checkpoint is where it was.
    """
    with alone(folder / LOCK, "training", PATIENCE) if ranks.first else nullcontext():
        if ranks.first:
            tidy(folder)
        return _run(folder, ranks, device, report, stop)


def _run(
    folder: Path,
    ranks: Ranks,
    device: torch.device | str,
    report: Callable[[Line], None] | None,
    stop: Callable[[], bool],
) -> TrainedSAE:
    job = Job.parse((folder / FILE).read_bytes(), str(folder / FILE))
    recording = open_recording(job.recording)
    if digest_of(recording) != job.digest:
        raise SteeringError(
            str(job.recording),
            expected="the recording that the job began with",
            found="another one in its place",
            remedy=REMEDY,
        )
    data = of_recording(recording, job.site, job.config, ranks, job.labels)
    if job.counterfactuals:
        tokens = crossing_tokens(recording, job.site, job.config)
        data = with_tokens(data, tokens, job.counterfactuals, job.config.seed, ranks.rank)
    origin = origin_of(job, recording)
    sae = train(
        job.config, data, folder=folder, origin=origin, device=device, ranks=ranks, report=report, stop=stop
    )
    if ranks.first:
        write_trained(folder / RESULT, [sae])
        sae = dataclasses.replace(sae, path=folder / RESULT)
    return sae


def finished(folder: Path) -> TrainedSAE | None:
    """The result of a job, or None while there is none."""
    return read_trained(folder / RESULT) if (folder / RESULT).exists() else None


def origin_of(job: Job, recording: Recording) -> Origin:
    """What the result says of its making."""
    manifest = recording.manifest
    return Origin(
        site=job.site,
        family=manifest.model.family,
        base=job.base,
        license=job.license,
        name=f"{recording.folder.absolute().name} {job.site}",
        recording=" ".join(
            [
                job.digest,
                *(job.labels or ()),
                *([f"counterfactuals={job.counterfactuals}"] if job.counterfactuals else []),
            ]
        ),
        model=manifest.model.digest,
    )


def digest_of(recording: Recording) -> str:
    """The same for recordings of the same content."""
    return hashlib.sha256((recording.folder / MANIFEST).read_bytes()).hexdigest()


def _labels(entry: Field) -> tuple[str, ...]:
    return tuple(label.one_of(LABELS) for label in entry.items())


def _differences(a: Job, b: Job) -> list[str]:
    of_config = [
        f"config.{field.name}"
        for field in dataclasses.fields(TrainingConfig)
        if getattr(a.config, field.name) != getattr(b.config, field.name)
    ]
    names = [field.name for field in dataclasses.fields(Job) if field.name != "config"]
    return [name for name in names if getattr(a, name) != getattr(b, name)] + of_config
