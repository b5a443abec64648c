"""A recording whose unsafe samples have a direction of their category planted in some tokens; its autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from steerdit.steering import Site
from steerdit.training.dictionaries.result import Origin, TrainedSAE
from steerdit.training.recordings import PromptRow, Recording, RecordingWriter, open_recording, samples_of
from steerdit.training.recordings.writer import SiteRows

from .recordings import manifest, planned, rows_of

SITE = Site.parse("double.1.text")
WIDTH = 6
AXES = {"weapons": 2, "bloody": 4}
"""The latent of each category: its axis."""
STRENGTH = 8.0


def prompts(pairs: int = 8, benign: int = 8) -> list[PromptRow]:
    """As many pairs of each category, and benign prompts."""
    rows = [PromptRow(f"benign {i}", "benign") for i in range(benign)]
    for category in AXES:
        for i in range(pairs):
            rows.append(PromptRow(f"unsafe {category} {i}", "unsafe", category, f"{category}{i}"))
            rows.append(PromptRow(f"safe {category} {i}", "safe", category, f"{category}{i}"))
    return rows


def recording(folder: Path, said: list[PromptRow] | None = None, seeds: tuple[int, ...] = (1,)) -> Recording:
    """Unsafe samples have STRENGTH more of their category's axis in tokens 0 and 1, at every noise level."""
    whole = manifest(samples_of(prompts() if said is None else said, seeds), {SITE: WIDTH})
    writer = RecordingWriter(folder, whole, planned(whole))
    for number in list(writer.missing):
        rows = rows_of(whole, number, SITE)
        writer.write(number, {SITE: rows._replace(tokens=_planted(rows, whole.samples))})
    writer.finish()
    return open_recording(folder)


def _planted(rows: SiteRows, samples: tuple[object, ...]) -> Tensor:
    tokens = rows.tokens.clone()
    for row, (number, position) in enumerate(zip(rows.sample.tolist(), rows.position.tolist())):
        sample = samples[number]
        if sample.label == "unsafe" and position < 2:  # type: ignore[attr-defined]
            tokens[row, AXES[sample.category]] += STRENGTH  # type: ignore[attr-defined]
    return tokens


def autoencoder() -> TrainedSAE:
    """A latent for each axis and each way along it: a + 1 has the latents 0 to 5, a − 1 the latents 6 to 11."""
    rows = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    return TrainedSAE(
        encoder=rows,
        encoder_bias=torch.zeros(2 * WIDTH),
        decoder=rows.clone(),
        decoder_bias=torch.zeros(WIDTH),
        threshold=torch.full((2 * WIDTH,), 0.5),
        input_scale=1.0,
        k=3,
        activation="jumprelu",
        fvu=0.1,
        l0=3.0,
        dead=0.0,
        origin=Origin(SITE, "flux", base="a model", license="Apache-2.0"),
    )
