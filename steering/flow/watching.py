"""Attention outputs of the picture's patches, kept while a batch is sampled: anchors and site searches need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..sites import Site
from .step import Attend, FlowState, FlowStep


class Seen(NamedTuple):
    """One picture's patches at one visit."""

    outputs: Tensor
    """(P, h·d) on the CPU, in the model's dtype."""
    heads: int
    grid: tuple[int, int]
    """(H, W) with H·W = P."""


@dataclass(frozen=True, eq=False)
class OutputWatcher:
    """Changes nothing. Keeps the newest output of each site, noise level and picture, until it is emptied."""

    keeps: Callable[[Site, float], bool] = lambda site, sigma: True
    """Whether a visit is kept."""
    seen: dict[tuple[Site, float, int], Seen] = field(default_factory=dict[tuple[Site, float, int], Seen])

    def wants(
        self, site: Site, sigma: float, percent_to_sigma: Callable[[float], float], state: FlowState
    ) -> bool:
        return self.keeps(site, sigma)

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        out = attend(q, k, v, step.mask)
        grid = step.layout.image
        for row, image in enumerate(step.images):
            patches = out[row, grid.span].detach().to("cpu", copy=True)
            self.seen[step.site, step.sigma, image] = Seen(patches, q.shape[1], grid.size)
        return out
