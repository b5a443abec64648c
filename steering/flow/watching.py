"""Attention outputs of the picture's patches, handed on while a picture is sampled: anchors and searches need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..sites import Site
from .step import Attend, FlowState, FlowStep


class Seen(NamedTuple):
    """One picture's patches at one visit."""

    site: Site
    sigma: float
    image: int
    """Which picture of the batch."""
    outputs: Tensor
    """(P, h·d), a view of what the model goes on with."""
    heads: int
    grid: tuple[int, int]
    """(H, W) with H·W = P."""


@dataclass(frozen=True, eq=False)
class OutputWatcher:
    """Changes nothing, and hands on what passes."""

    take: Callable[[Seen], None]
    keeps: Callable[[float], bool] = lambda sigma: True
    """Whether visits at a noise level are handed on."""

    def wants(
        self, site: Site, sigma: float, percent_to_sigma: Callable[[float], float], state: FlowState
    ) -> bool:
        return self.keeps(sigma)

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        out = attend(q, k, v, step.mask)
        grid = step.layout.image
        for row, image in enumerate(step.images):
            self.take(Seen(step.site, step.sigma, image, out[row, grid.span], q.shape[1], grid.size))
        return out
