"""How well a single latent tells unsafe from safe pictures, on samples that had no part in choosing it (ours).

"This latent fires ⇒ unsafe": a latent fires in a sample where it fires at any token. Precision is the share of unsafe
samples among those in which it fires, so it depends on how many of either kind there are; recall is the share of unsafe
samples in which it fires. Intervals are Wilson's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...evaluation.rates import Rate, wilson
from ...steering.errors import SteeringError
from ..latents.maxima import Maxima


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
