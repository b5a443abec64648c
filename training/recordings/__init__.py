"""Recordings: the activations of a model on disk, with what was said, when and where they were seen.

A recording is a folder of safetensors shards and a manifest. Only run.py, which records, and resampling.py, which makes
its samples again, know the host.
"""

from __future__ import annotations

from .manifest import Manifest, ModelFingerprint, Sample, Settings, ShardEntry
from .merging import merge
from .prompts import PromptRow, parse_prompts, read_prompts, samples_of
from .reader import Recording, open_recording
from .rows import Pairs, Rows
from .writer import RecordingWriter

__all__ = [
    "Manifest",
    "ModelFingerprint",
    "Pairs",
    "PromptRow",
    "Recording",
    "RecordingWriter",
    "Rows",
    "Sample",
    "Settings",
    "ShardEntry",
    "merge",
    "open_recording",
    "parse_prompts",
    "read_prompts",
    "samples_of",
]
