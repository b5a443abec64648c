"""Records a model: samples every prompt in the host and keeps the planned tokens of each site on disk.

    samples + settings → plan → for each shard: encode its prompts, sample them, write → manifest

Memory holds one shard and its prompts at a time. Nothing here is imported by what only reads recordings.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...host.attach import attach, diffusion_model
from ...host.families import family_of
from ...host.fingerprint import fingerprint
from ...host.sampling import Sampling, noise_levels, sample_prompts, sampling_for
from ...host.version import host_version
from ...host.wrapper import PLAN_KEY
from ...steering.errors import SteeringError
from ...steering.formats.fields import shown
from ...steering.plan import Entry
from ...steering.sites import Site
from . import manifest as manifests
from .gather import Gatherer, ShardInHand
from .manifest import Manifest, ModelFingerprint, Sample, Settings
from .plan import TokenPlan
from .reader import Recording, open_recording
from .writer import RecordingWriter, shard_bytes, size

PACK = Path(__file__).resolve().parents[2]


class RecordingCancelled(SteeringError):
    """The user stopped a recording; its finished shards are kept for the next attempt."""


class Encoder(Protocol):
    """Where prompts become conditionings; `host.text.PromptEncoder` does it by the host's CLIP objects."""

    def fingerprint(self) -> str | None:
        """A SHA-256 that tells these text encoders from others, if there is one."""
        ...

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """The conditioning (1, L, C) and the pooled state (1, P)."""
        ...

    def places(self, text: str) -> Sequence[int]:
        """The places of the conditioning that are not padding, rising. Asked for all prompts before any is encoded."""
        ...


@dataclass(frozen=True)
class Estimate:
    """What a recording will take, known before it starts."""

    pictures: int
    """That are still to be sampled by this process."""
    shards: int
    bytes: int
    """That they will take on the disk."""
    free: int
    """Bytes there are."""
    total: int
    """Bytes of the whole recording, of all processes."""
    memory: int
    """Bytes of the largest shard, which is held in memory until it is written."""

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures in {self.shards} shards, {size(self.bytes)} of disk ({size(self.free)} free; "
            f"the whole recording {size(self.total)}), {size(self.memory)} of memory for a shard"
        )


def prepared(
    model: Any, encoder: Encoder, samples: Sequence[Sample], sites: Sequence[Site], settings: Settings
) -> tuple[Manifest, TokenPlan, Sampling]:
    """Everything that is known before the first picture: what will be recorded, and which of its tokens.

    Args:
        model: the host's ModelPatcher.

    Raises:
        SteeringError: a setting, a prompt or a site cannot be; names it.
    """
    if model.model_options.get("transformer_options", {}).get(PLAN_KEY) is not None:
        raise SteeringError(
            "MODEL",
            expected="a model as it is",
            found="one that SteerDiT steers",
            remedy="Connect the model before any steering node.",
        )
    family, digest = fingerprint(model)
    dit = diffusion_model(model)
    kind = family_of(dit)
    if not sites:
        raise SteeringError(
            "sites", expected="at least one site", found="none", remedy="Name some, such as `double.*.image`."
        )
    widths = {site: kind.width(dit, site) for site in sorted(set(sites))}
    # What a person typed is checked before the host is asked about it.
    draft = Manifest(
        ModelFingerprint(family, digest),
        widths,
        settings,
        (1.0,),
        tuple(samples),
        versions(),
        encoder.fingerprint(),
    )
    draft = manifests.checked(draft)
    sampling = sampling_of(model, settings)
    sigmas = noise_levels(model, sampling)
    if all(manifests.bucket_of(sigma, settings.buckets) < 0 for sigma in sigmas):
        raise SteeringError(
            "buckets",
            expected=f"edges around some of the noise levels {sigmas[-1]:.4g} to {sigmas[0]:.4g}",
            found=", ".join(f"{edge:g}" for edge in settings.buckets),
            remedy="Choose other edges.",
        )
    manifest = dataclasses.replace(draft, sigmas=sigmas)
    known = {text: encoder.places(text) for text in dict.fromkeys(sample.text for sample in samples)}
    text = [known[sample.text] for sample in samples]
    # Shapes are all that a family looks at.
    empty = torch.empty(1, max(places[-1] for places in known.values()) + 1, 0)
    picture = torch.empty(1, 0, *sampling.size)
    start = kind.text(empty).start if Site("text") in widths else 0
    return manifest, TokenPlan(manifest, text, kind.layout(dit, picture, empty).image, start), sampling


@torch.inference_mode()
def estimated(
    model: Any,
    encoder: Encoder,
    samples: Sequence[Sample],
    sites: Sequence[Site],
    settings: Settings,
    folder: str | Path,
    *,
    shard: tuple[int, int] = (0, 1),
) -> Estimate:
    """What `record` would take of the same arguments. Nothing is written."""
    manifest, plan, _ = prepared(model, encoder, samples, sites, settings)
    rows, path = plan.all_rows(), Path(folder)
    if path.exists() and any(path.iterdir()):
        return _estimate(manifest, rows, RecordingWriter(path, manifest, rows, shard).missing, path)
    there = next(parent for parent in path.resolve().parents if parent.exists())
    return _estimate(manifest, rows, range(shard[0], len(rows), shard[1]), there)


def _estimate(
    manifest: Manifest, rows: Sequence[Mapping[Site, int]], missing: Sequence[int], folder: Path
) -> Estimate:
    sizes = [shard_bytes(of, manifest) for of in rows]
    ranges = manifest.ranges()
    return Estimate(
        pictures=sum(ranges[number][1] - ranges[number][0] for number in missing),
        shards=len(missing),
        bytes=sum(sizes[number] for number in missing),
        free=shutil.disk_usage(folder).free,
        total=sum(sizes),
        memory=max(sizes),
    )


@torch.inference_mode()  # as the host runs its nodes
def sampling_of(model: Any, settings: Settings) -> Sampling:
    """How a recording's pictures are sampled.

    Raises:
        SteeringError: the model makes no such pictures, or the host lacks the sampler or the scheduler.
    """
    return sampling_for(
        model,
        settings.height,
        settings.width,
        steps=settings.steps,
        cfg=settings.cfg,
        sampler=settings.sampler,
        scheduler=settings.scheduler,
        guidance=settings.guidance,
    )


def record(
    model: Any,
    encoder: Encoder,
    samples: Sequence[Sample],
    sites: Sequence[Site],
    settings: Settings,
    folder: str | Path,
    *,
    shard: tuple[int, int] = (0, 1),
    announce: Callable[[Estimate], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> Recording | None:
    """Records samples of a model, or what is missing of a recording that was begun in this folder.

    The same samples and settings give the same bytes on the same machine, whether the recording is made at once, in
    several attempts, or in parts that are merged.

    Args:
        model: the host's ModelPatcher. It is not changed, and must not be steered.
        shard: (i, n): make only the shards whose number leaves i when divided by n.
        announce: hears once what the recording will take, before anything is sampled.
        progress: hears (calls of the model done, in all) at each noise level.
        interrupted: asked at each noise level; True stops.

    Returns:
        the recording, or None where other processes have still to record their parts.

    Raises:
        RecordingCancelled: `interrupted` said so. Finished shards are kept.
        SteeringError: a setting cannot be, the folder holds another recording, or the disk is too small or full.
    """
    manifest, plan, sampling = prepared(model, encoder, samples, sites, settings)
    writer = RecordingWriter(folder, manifest, plan.all_rows(), shard)
    if announce is not None:
        announce(_estimate(manifest, writer.rows, writer.missing, writer.folder))
    writer.require_space()
    if writer.missing:
        with writer.at_work():
            course = _Course(writer, progress, interrupted)
            make = _read_text if set(manifest.sites) == {Site("text")} else _sampled
            for hand in make(model, encoder, plan, sampling, course):
                writer.write(hand.number, hand.rows())
            writer.finish()
    return open_recording(writer.folder) if writer.finish() is not None else None


class _Course:
    """How far a recording has come, and whether it should go on."""

    def __init__(
        self,
        writer: RecordingWriter,
        progress: Callable[[int, int], None] | None,
        interrupted: Callable[[], bool] | None,
    ) -> None:
        self.missing = tuple(writer.missing)
        self._folder, self._progress, self._interrupted = writer.folder, progress, interrupted
        ranges, levels = writer.manifest.ranges(), len(writer.manifest.sigmas)
        self._total = levels * len(writer.manifest.samples)
        self._done = self._total - levels * sum(ranges[n][1] - ranges[n][0] for n in self.missing)
        self._seen: set[tuple[int, int]] = set()

    def at(self, step: int | None, samples: Sequence[int]) -> None:
        """These samples have come to a step; several sites may say so, and it counts once."""
        if self._interrupted is not None and self._interrupted():
            raise RecordingCancelled(
                str(self._folder),
                expected="to record to the end",
                found="a stop by the user",
                remedy="Record again with the same settings to go on; the finished shards are kept.",
            )
        if step is None or (samples[0], step) in self._seen:
            return
        self._seen = {at for at in self._seen if at[0] == samples[0]} | {(samples[0], step)}
        self._done += len(samples)
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


def _sampled(
    model: Any, encoder: Encoder, plan: TokenPlan, sampling: Sampling, course: _Course
) -> Iterator[ShardInHand]:
    """Each missing shard, filled by sampling its prompts."""
    manifest = plan.manifest
    negative = encoder.encode(manifest.settings.negative)
    gatherer = Gatherer(course.at)
    watched = attach(model, [Entry(site, gatherer) for site in manifest.sites])
    for number in course.missing:
        first, stop = manifest.ranges()[number]
        part = manifest.samples[first:stop]
        hand = gatherer.shard = ShardInHand(plan, number)
        encoded = _encoded(encoder, plan, first, part)
        seeds = [sample.seed for sample in part]
        # The samples' numbers within the shard are told before each batch.
        batch, told = manifest.settings.batch, gatherer.samples
        for _ in sample_prompts(watched, encoded, negative, seeds, sampling, batch, announce=told):
            pass
        yield hand


def _read_text(
    model: Any, encoder: Encoder, plan: TokenPlan, sampling: Sampling, course: _Course
) -> Iterator[ShardInHand]:
    """Each missing shard where only the conditioning is recorded: nothing has to be sampled."""
    manifest, kind = plan.manifest, family_of(diffusion_model(model))
    for number in course.missing:
        first, stop = manifest.ranges()[number]
        hand = ShardInHand(plan, number)
        for sample, (tokens, _) in enumerate(
            _encoded(encoder, plan, first, manifest.samples[first:stop]), first
        ):
            for step, sigma in enumerate(manifest.sigmas):
                course.at(step, [sample])
                hand.take(Site("text"), sigma, tokens[:, kind.text(tokens)], [sample])
        yield hand


def _encoded(
    encoder: Encoder, plan: TokenPlan, first: int, samples: Sequence[Sample]
) -> list[tuple[Tensor, Tensor]]:
    """The conditioning of each sample, from sample ``first`` on."""
    known: dict[str, tuple[Tensor, Tensor]] = {}
    for number, sample in enumerate(samples, first):
        if sample.text not in known:
            known[sample.text] = encoded = encoder.encode(sample.text)
            if encoded[0].shape[1] < plan.text_length(number):
                raise SteeringError(
                    f"prompt {shown(sample.text)}",
                    expected=f"a conditioning of at least {plan.text_length(number)} tokens, as its words take",
                    found=f"{encoded[0].shape[1]}",
                    remedy="Load the text encoders that belong to the model.",
                )
    return [known[sample.text] for sample in samples]


def versions() -> dict[str, str]:
    """Of what takes part in the numbers."""
    try:
        own = metadata.version("steerdit")
    except metadata.PackageNotFoundError:  # a folder in custom_nodes
        text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
        found = re.search(r'^version = "(.+)"', text, re.MULTILINE)
        own = found[1] if found else "unknown"
    return {"steerdit": own, "comfyui": host_version(), "torch": str(torch.__version__)}
