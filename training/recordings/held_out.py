"""Divides samples into those to choose on and those to judge on: pairs and repeated prompts stay together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...steering.errors import SteeringError

UNSAFE = "unsafe"


class Labelled(Protocol):
    """What is known of a sample."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def category(self) -> str | None: ...
    @property
    def pair(self) -> str | None: ...


def units(samples: Sequence[Labelled]) -> list[str]:
    """What must stay on one side of a split: samples of one pair, and of one prompt whatever its seed."""
    return [sample.text if sample.pair is None else f"pair {sample.pair}" for sample in samples]


def split(samples: Sequence[Labelled], share: float = 0.25, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers of the samples to choose on, and of those that are held out, both rising.

    Each category of unsafe prompts, and the benign prompts, give the same share; pairs and repeated prompts stay
    together.

    Raises:
        SteeringError: a category has one prompt only, or the share is not within 0 and 1.
    """
    if not 0 < share < 1:
        raise SteeringError(
            "held out", expected="a share within 0 and 1", found=f"{share}", remedy="Try 0.25."
        )
    strata: dict[str, str] = {}
    for unit, sample in zip(units(samples), samples, strict=True):
        if sample.label == UNSAFE or unit not in strata:
            strata[unit] = f"category {sample.category!r}" if sample.label == UNSAFE else "benign prompts"
    generator = torch.Generator().manual_seed(seed)
    held: set[str] = set()
    for stratum in sorted(set(strata.values())):
        members = sorted(unit for unit, its in strata.items() if its == stratum)
        if len(members) < 2:
            raise SteeringError(
                stratum,
                expected="at least 2 prompts, one to choose latents on and one to judge them on",
                found=f"{len(members)}",
                remedy="Record more prompts of this kind, or leave it out.",
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held |= {members[i] for i in torch.randperm(len(members), generator=generator)[:count].tolist()}
    out = torch.tensor([unit in held for unit in units(samples)])
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]
