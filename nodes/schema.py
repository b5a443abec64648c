"""Schemas that newer and older hosts understand, and the pack's own socket types."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

BUNDLE = io.Custom("STEERDIT_BUNDLE")
DIRECTION = io.Custom("STEERDIT_DIRECTION")
"""A DirectionSet, wherever it lives."""
PROMPTS = io.Custom("STEERDIT_PROMPTS")
"""A tuple of PromptRow."""
RECORDING = io.Custom("STEERDIT_RECORDING")
"""A Recording on the disk."""
SAE = io.Custom("STEERDIT_SAE")
"""A TrainedSAE of one site."""
SITES = io.Custom("STEERDIT_SITES")
"""A tuple of Site, best first."""
SELECTION = io.Custom("STEERDIT_SELECTION")
"""A Selection: the latents of an autoencoder that stand for risks."""
SAMPLES = io.Custom("STEERDIT_SAMPLES")
"""A Sampler: prompts that are sampled as often as they are asked for."""
PARTS = io.Custom("STEERDIT_PARTS")
"""A tuple of Part, one for each site: what a bundle will hold."""

_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schedule_inputs() -> tuple[Any, Any]:
    """Between which parts of the noise schedule a steering node acts: `start_percent` and `end_percent`."""
    return (
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Begin at this part of the noise schedule; 0 is pure noise.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Stop at this part of the noise schedule; 1 is the finished picture.",
        ),
    )


def schema(**fields: Any) -> io.Schema:
    """An `io.Schema` without the fields that this host does not know yet, such as `search_aliases`."""
    return io.Schema(**{name: value for name, value in fields.items() if name in _FIELDS})
