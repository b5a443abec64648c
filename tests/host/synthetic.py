"""Bundles of random dictionaries for the tiny models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from steerdit.steering.formats.bundle import Bundle
from steerdit.steering.formats.header import Base, BundleHeader, Category, GateThresholds, Made, SaeSite
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site

from .tiny import CONTEXT, WIDTH

LATENTS = 40
SITES = {
    "flux": ("text", "double.0.text", "double.1.image", "single.0.text", "single.1.image"),
    "sd3": ("text", "joint.0.text", "joint.1.image", "joint.2.image"),
}
WEAPONS = Category((3, 17, 29), (1.0, 0.5, 2.0), GateThresholds(token=1.0, image=4.0))
BLOODY = Category((17, 8), (1.5, 1.0), GateThresholds(token=0.8, image=1.5))
NEVER = Category((5,), (1.0,), GateThresholds(token=1e6, image=1e6))


def bundle(
    folder: Path,
    family: str,
    sites: tuple[str, ...] | None = None,
    *,
    activation: str = "jumprelu",
    categories: Mapping[str, Category] | None = None,
    width: int | None = None,
    adapted: bool = True,
    seed: int = 11,
) -> Bundle:
    """A bundle with an autoencoder of 40 latents at each site, by default with an adapted decoder."""
    draw = torch.Generator().manual_seed(seed)
    header_sites: dict[Site, SaeSite] = {}
    tensors: dict[str, Tensor] = {}
    for name in SITES[family] if sites is None else sites:
        d = width or (CONTEXT if name == "text" else WIDTH)[family]
        site = header_sites[Site.parse(name)] = SaeSite(
            width=d,
            latents=LATENTS,
            activation=activation,
            k=6 if activation == "topk" else None,
            input_scale=0.7,
            categories={"weapons": WEAPONS, "bloody": BLOODY} if categories is None else dict(categories),
        )
        extra = {"decoder_adapted": site.optional_shapes()["decoder_adapted"]} if adapted else {}
        for part, shape in {**site.tensor_shapes(), **extra}.items():
            values = torch.randn(shape, generator=draw)
            if part in ("encoder", "decoder", "decoder_adapted"):
                values /= d**0.5
            tensors[f"{name}.{part}"] = values.abs() if part == "threshold" else values
    header = BundleHeader(
        name="synthetic",
        family=family,
        base=Base("tiny random model"),
        license="Apache-2.0",
        made=Made("tests"),
        sites=header_sites,
    )
    return write_bundle(
        folder / f"{family}-{activation}-{seed}-{len(header_sites)}.safetensors", header, tensors
    )
