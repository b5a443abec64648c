"""Bundles of random directions, and short ways to what the nodes make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerdit.nodes.steer_direction import SteerConditioningNode, SteerDirectionNode
from steerdit.steering.directions import DirectionSet
from steerdit.steering.formats.bundle import Bundle
from steerdit.steering.formats.directions import Direction, DirectionSite, Encoder
from steerdit.steering.formats.header import Base, BundleHeader, Made
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site

ENCODER = Encoder("random", "ab" * 32)
ROWS = (Direction("weapons", 1.0, 0.02), Direction("bloody", 0.5, 0.3))
NEVER = (Direction("weapons", 1.0, 1.0), Direction("bloody", 1.0, 1.0))
INPUTS: dict[str, Any] = {
    "operator": "project_out",
    "strength": 1.5,
    "weights": "gated",
    "categories": "all",
    "keep_norm": True,
}
WHEN: dict[str, Any] = {"sites": "default", "start_percent": 0.0, "end_percent": 1.0}


def direction_bundle(
    folder: Path,
    family: str,
    widths: Mapping[str, int],
    rows: tuple[Direction, ...] = ROWS,
    seed: int = 21,
    encoder: Encoder = ENCODER,
) -> Bundle:
    """Random directions at each site of the given width."""
    draw = torch.Generator().manual_seed(seed)
    sites: dict[Site, DirectionSite] = {}
    tensors: dict[str, Tensor] = {}
    for name, width in widths.items():
        sites[Site.parse(name)] = DirectionSite(width, encoder, rows)
        tensors[f"{name}.direction"] = torch.randn(len(rows), width, generator=draw)
        tensors[f"{name}.direction_mean"] = 0.2 * torch.randn(width, generator=draw)
    header = BundleHeader(
        "directions", family, Base("tiny random model"), "Apache-2.0", Made("tests"), directions=sites
    )
    return write_bundle(
        folder / f"{family}-directions-{seed}-{len(rows)}-{len(sites)}.safetensors", header, tensors
    )


def directions_at(bundle: Bundle, site: str = "text") -> DirectionSet:
    return DirectionSet.of_bundle(bundle, Site.parse(site))


def steered_conditioning(conditioning: Any, bundle: Bundle, **changes: Any) -> Any:
    """The CONDITIONING that the node Steer Conditioning gives."""
    node = SteerConditioningNode.execute(conditioning=conditioning, bundle=bundle, **{**INPUTS, **changes})
    return node.args[0]


def steered_model(model: Any, bundle: Bundle, **changes: Any) -> Any:
    """The MODEL that the node Steer Direction gives."""
    node = SteerDirectionNode.execute(model=model, bundle=bundle, **{**INPUTS, **WHEN, **changes})
    return node.args[0]
