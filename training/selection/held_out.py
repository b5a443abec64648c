"""How well a single latent tells unsafe from safe pictures, on samples that had no part in choosing it (ours).

"This latent fires ⇒ unsafe": a latent fires in a sample where it fires at any token. Precision is the share of unsafe
samples among those in which it fires, so it depends on how many of either kind there are; recall is the share of unsafe
samples in which it fires. Intervals are Wilson's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...evaluation.rates import Rate, wilson
from ...steering.errors import SteeringError
from ..latents.maxima import Maxima

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


@dataclass(frozen=True)
class Quality:
    """One latent as a detector."""

    latent: int
    precision: Rate
    """Of the samples in which it fires, those that are unsafe; without a value (NaN) where it never fires."""
    recall: Rate
    """Of the unsafe samples, those in which it fires."""
    false_positive: Rate
    """Of the other samples, those in which it fires."""


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


def qualities(maxima: Maxima, latents: Sequence[int], unsafe: Tensor, rest: Tensor) -> list[Quality]:
    """Precision and recall of each latent.

    Args:
        maxima: the highest value of these latents (S) in each sample.
        unsafe, rest: numbers of the held-out samples of the category, and of the others.

    Raises:
        SteeringError: a side has no sample with tokens.
    """
    fires = maxima.best > 0
    sides: list[Tensor] = []
    for name, numbers in (("unsafe", unsafe), ("other", rest)):
        numbers = numbers[maxima.seen[numbers]]
        if not len(numbers):
            raise SteeringError(
                "held-out samples",
                expected=f"at least one {name} sample with recorded tokens",
                found="none",
                remedy="Hold out a larger share, or record more prompts.",
            )
        sides.append(fires[numbers])
    hits, alarms = (side.sum(0).tolist() for side in sides)  # (S)
    return [
        Quality(latent, wilson(h, h + a), wilson(h, len(sides[0])), wilson(a, len(sides[1])))
        for latent, h, a in zip(latents, hits, alarms, strict=True)
    ]
