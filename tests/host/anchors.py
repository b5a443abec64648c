"""Bundles of random anchors for the tiny models with two heads."""

from __future__ import annotations

from pathlib import Path

import torch

from steerdit.steering.flow.anchors import Anchors
from steerdit.steering.formats.anchors import AnchorThreshold, anchor_site_of, anchor_tensors
from steerdit.steering.formats.bundle import Bundle
from steerdit.steering.formats.header import Base, BundleHeader, Made
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site

from .flows import HEADS

SITE = {"flux": "double.1.attention", "sd3": "joint.1.attention", "qwen_image": "joint.0.attention"}
WIDTH = {"flux": 128, "sd3": 64, "qwen_image": 128}


def anchors(
    folder: Path,
    family: str,
    *,
    threshold: float = 0.0,
    site: str | None = None,
    heads: int | None = None,
    width: int | None = None,
    benign: bool = True,
    lacking: str = "",
    name: str = "anchors",
    seed: int = 13,
) -> Bundle:
    """A bundle with anchors of two concepts at one attention; about half of the patches pass a threshold of 0.

    Args:
        lacking: a concept without a calibrated threshold.
    """
    draw = torch.Generator().manual_seed(seed)
    size = heads or HEADS[family], width or WIDTH[family]
    made = Anchors(
        Site.parse(site or SITE[family]),
        ("weapons", "bloody"),
        means=torch.randn(2, 1, *size, generator=draw),
        contrasts=torch.randn(2, 1, *size, generator=draw) if benign else None,
        offsets=torch.zeros(2, 1, size[0]) if benign else None,
        benign=torch.zeros(size) if benign else None,
    )
    calibrated = (AnchorThreshold("whitened", threshold),)
    entry = anchor_site_of(
        made,
        {"weapons": 5, "bloody": 7},
        9 if benign else 0,
        {concept: calibrated for concept in made.concepts if concept != lacking} if benign else None,
    )
    header = BundleHeader(
        name=name,
        family=family,
        base=Base("tiny"),
        license="Apache-2.0",
        made=Made("test"),
        anchors={made.site: entry},
    )
    return write_bundle(folder / f"{family}-{name}.safetensors", header, anchor_tensors(made))
