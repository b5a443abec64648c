"""Recordings of synthetic activations, for the tests of what writes and of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from steerdit.steering.sites import Site
from steerdit.training.recordings import (
    Manifest,
    ModelFingerprint,
    PromptRow,
    Recording,
    RecordingWriter,
    Sample,
    Settings,
    open_recording,
    samples_of,
)
from steerdit.training.recordings.writer import SiteRows

SITES = {Site.parse("double.1.text"): 6, Site.parse("single.1.image"): 8}
SIGMAS = (1.0, 0.75, 0.5, 0.25)
SETTINGS = Settings(
    steps=4, height=64, width=96, buckets=(0.0, 0.5, 1.0), dtype="float32", samples_per_shard=3
)
MODEL = ModelFingerprint("flux", "0" * 64)
TOKENS = 5


def prompts(pairs: int = 3, benign: int = 4) -> list[PromptRow]:
    """Unsafe prompts of two categories with their rewrites, and benign ones."""
    rows = [PromptRow(f"benign {i}", "benign") for i in range(benign)]
    for i in range(pairs):
        category = ("weapons", "bloody")[i % 2]
        rows.append(PromptRow(f"unsafe {i}", "unsafe", category, f"p{i}"))
        rows.append(PromptRow(f"safe {i}", "safe", category, f"p{i}"))
    return rows


def manifest(
    samples: Sequence[Sample] | None = None, sites: Mapping[Site, int] = SITES, settings: Settings = SETTINGS
) -> Manifest:
    said = samples_of(prompts(), (1, 2)) if samples is None else tuple(samples)
    return Manifest(MODEL, dict(sites), settings, SIGMAS, said, {"steerdit": "test"})


def rows_of(whole: Manifest, number: int, site: Site, tokens: int = TOKENS) -> SiteRows:
    """What a shard holds of a site: at every noise level some tokens, drawn by sample, noise level and place."""
    first, stop = whole.ranges()[number]
    labels = [(i, s, p) for i in range(first, stop) for s in whole.sigmas for p in range(tokens)]
    sample, sigma, position = (torch.tensor(column) for column in zip(*labels, strict=True))
    values = [token(i, s, p, whole.sites[site]) for i, s, p in labels]
    dtype = getattr(torch, whole.settings.dtype)
    return SiteRows(torch.stack(values).to(dtype), sample.int(), sigma.float(), position.int())


def token(sample: int, sigma: float, position: int, width: int) -> Tensor:
    """The token that a synthetic recording holds there."""
    seed = (sample * 1009 + round(sigma * 100)) * 1013 + position
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def planned(whole: Manifest, tokens: int = TOKENS) -> list[dict[Site, int]]:
    """How many rows each shard has at each site."""
    return [
        dict.fromkeys(whole.sites, (stop - first) * len(whole.sigmas) * tokens)
        for first, stop in whole.ranges()
    ]


def write(
    folder: Path, whole: Manifest | None = None, shard: tuple[int, int] = (0, 1), tokens: int = TOKENS
) -> Manifest | None:
    """Writes a process' shards of a synthetic recording; gives the manifest if that was the last."""
    whole = manifest() if whole is None else whole
    writer = RecordingWriter(folder, whole, planned(whole, tokens), shard)
    for number in list(writer.missing):
        writer.write(number, {site: rows_of(whole, number, site, tokens) for site in whole.sites})
    return writer.finish()


def recording(folder: Path, whole: Manifest | None = None, tokens: int = TOKENS) -> Recording:
    """A whole synthetic recording."""
    write(folder, whole, tokens=tokens)
    return open_recording(folder)
