"""Puts together what was made of each site, and writes it as one bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..steering.errors import SteeringError
from ..steering.formats.bundle import Bundle
from ..steering.formats.header import Base, BundleHeader, Category, Made
from ..steering.formats.writing import write_bundle
from ..steering.sites import Site
from .dictionaries.result import FIGURES, Origin, TrainedSAE

BY = "SteerDiT"


@dataclass(frozen=True, eq=False)
class Part:
    """One site of a bundle to be."""

    sae: TrainedSAE
    categories: Mapping[str, Category]

    @property
    def origin(self) -> Origin:
        """Where its activations come from; a SteeringError where that is not known."""
        return origin_of(self.sae)

    @property
    def site(self) -> Site:
        return self.origin.site


def origin_of(sae: TrainedSAE) -> Origin:
    """Where an autoencoder's activations come from.

    Raises:
        SteeringError: it does not say.
    """
    if sae.origin is None:
        raise SteeringError(
            "autoencoder",
            expected="one that knows its model and site",
            found="one without an origin",
            remedy="Use the result of a training on a recording.",
        )
    return sae.origin


def write_parts(
    path: Path,
    parts: Sequence[Part],
    *,
    name: str = "",
    base: Base | None = None,
    license: str = "",
    half: bool = True,
    recipe: Mapping[str, Any] | None = None,
) -> Bundle:
    """Writes the parts as a bundle that steering nodes can load.

    Args:
        base: the checkpoint; None is what the autoencoders say.
        license: an SPDX expression; empty is what they say.
        half: matrices in half precision, which no gate notices.
        recipe: free-form values for the header, beside the figures of each autoencoder.

    Raises:
        SteeringError: there are no parts, two are of one site, they are of different models, or no part has a category.
    """
    if not any(part.categories for part in parts):
        raise SteeringError(
            str(path),
            expected="at least one site with a calibrated category",
            found=f"{len(parts)} sites without any",
            remedy="Select latents with a lower ratio, train longer, or choose other sites.",
        )
    first = parts[0].origin
    for part in parts:
        it = part.origin
        others = it.model != first.model and "" not in (it.model, first.model)
        if others or (it.family, it.base) != (first.family, first.base):
            raise SteeringError(
                str(path),
                expected=f"parts of one model, {first.base} ({first.family} {first.model[:12]})",
                found=f"one of {it.base} ({it.family} {it.model[:12]}) at {part.site}",
                remedy="Write a bundle for each model.",
            )
    sites = {part.site: part for part in parts}
    if len(sites) < len(parts):
        raise SteeringError(
            str(path),
            expected="each site once",
            found=", ".join(str(part.site) for part in parts),
            remedy="Leave one of the two out.",
        )
    figures = {
        str(site): {
            "recording": part.origin.recording,
            "config": dict(part.sae.recipe),
            **{key: getattr(part.sae, key) for key in FIGURES},
        }
        for site, part in sites.items()
    }
    header = BundleHeader(
        name=name or first.name or path.stem,
        family=first.family,
        base=base or Base(first.base, first.base_sha256),
        license=license or first.license,
        made=Made(BY, {**figures, **(recipe or {})}),
        sites={
            site: replace(part.sae.described(), categories=dict(part.categories))
            for site, part in sites.items()
        },
    )
    tensors = {
        f"{site}.{what}": tensor.half() if half and tensor.ndim == 2 else tensor.to(torch.float32)
        for site, part in sites.items()
        for what, tensor in part.sae.tensors().items()
    }
    return write_bundle(path, header, tensors)
