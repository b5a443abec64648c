"""Recording: a modifier that changes nothing and keeps the tokens that pass, with their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..steering.modifiers import Step
from ..steering.sites import Site


class Recorded(NamedTuple):
    """The tokens of one row at one visit of a site."""

    site: Site
    sigma: float
    seed: int | None
    """Of the sampling run."""
    image: int
    """Which picture of the batch."""
    tokens: Tensor
    """(L, d) on the CPU"""


@dataclass(frozen=True, eq=False)
class Recorder:
    """Captures the tokens of the sites that it stands at. One recorder can stand at many.

    Args:
        keep: receives each row; by default `records` collects them.
        dtype: of what is kept.
    """

    keep: Callable[[Recorded], None] | None = None
    dtype: torch.dtype = torch.float32
    records: list[Recorded] = field(default_factory=list[Recorded])

    @property
    def width(self) -> None:
        return None

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        # A copy in any case: the host goes on writing into its own.
        copy = tokens.detach().to(device="cpu", dtype=self.dtype, copy=True)
        for row, image in zip(copy, step.images, strict=True):
            (self.keep or self.records.append)(Recorded(step.site, step.sigma, step.seed, image, row))
        return tokens
