"""A recording without one category, taken out of the whole one.

What a recording keeps of a prompt does not depend on the other prompts as long as no `cap` divides rows among them, so
this holds what would have been recorded without that category, and nothing has to be sampled again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ...steering.sites import Site
from ...training.recordings import Recording, open_recording
from ...training.recordings.manifest import FILE
from ...training.recordings.rows import joined, taken
from ...training.recordings.writer import RecordingWriter, SiteRows


def without(whole: Recording, category: str, folder: Path) -> Recording:
    """The recording of all samples but those of a category, made in the folder unless it is there."""
    if (folder / FILE).exists():
        return open_recording(folder)
    manifest = whole.manifest
    assert manifest.settings.cap is None, "a cap makes what is kept of one prompt depend on the others"
    kept = [i for i, sample in enumerate(manifest.samples) if sample.category != category]
    number = torch.full((len(manifest.samples),), -1)
    number[kept] = torch.arange(len(kept))
    fewer = replace(manifest, samples=tuple(manifest.samples[i] for i in kept), shards=())
    dtype = getattr(torch, manifest.settings.dtype)
    made: list[dict[Site, SiteRows]] = [{} for _ in fewer.ranges()]
    for site, width in whole.sites.items():
        parts = [taken(rows, number[rows.sample] >= 0) for rows in whole.shards(site)]
        rows = joined(parts, width)
        sample = number[rows.sample]
        for at, (first, stop) in enumerate(fewer.ranges()):
            of = (sample >= first) & (sample < stop)
            made[at][site] = SiteRows(
                rows.tokens[of].to(dtype), sample[of].int(), rows.sigma[of], rows.position[of].int()
            )
    planned: list[Mapping[Site, int]] = [{site: len(of.sample) for site, of in it.items()} for it in made]
    writer = RecordingWriter(folder, fewer, planned)
    for at in list(writer.missing):
        writer.write(at, made[at])
    writer.finish()
    return open_recording(folder)
