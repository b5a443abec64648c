"""How much of the picture's attention goes where: to the text, to each reference, to the picture itself.

The share of a stream is Σ_j a_ij over its tokens j, a mean over the picture's tokens i and the heads. It is the output
of ordinary attention whose values are 1 in the stream's own channel and 0 elsewhere, so no L × L matrix is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import SteeringError
from ..sites import Site
from .layout import FlowLayout
from .restrict import additive
from .step import Attend, FlowState, FlowStep


def stream_names(layout: FlowLayout) -> tuple[str, ...]:
    """`text`, `picture`, then the references: what the shares are of."""
    count = len(layout.references)
    references = ("reference",) if count == 1 else tuple(f"reference {i}" for i in range(1, count + 1))
    return ("text", "picture", *references)


def flow_shares(attend: Attend, q: Tensor, k: Tensor, step: FlowStep) -> Tensor:
    """(R, S) float32: the share of each stream in the attention of each row's picture.

    Args:
        q, k: (R, h, L, d) with d >= S.
    """
    layout = step.layout
    spans = (layout.text, layout.image.span, *(grid.span for grid in layout.references))
    values = torch.zeros_like(k)
    for channel, span in enumerate(spans):
        values[:, :, span, channel] = 1
    mask = step.mask
    if mask is not None:
        mask = additive(mask, q.dtype)
        mask = mask[:, :, layout.image.span] if mask.shape[2] > 1 else mask
    out = attend(q[:, :, layout.image.span], k, values, mask)  # (R, P, h·d)
    by_head = out.unflatten(-1, (q.shape[1], -1))[..., : len(spans)].float()
    return by_head.mean((1, 2))


@dataclass(frozen=True, eq=False)
class ShareRecorder:
    """Watches attention and changes nothing. One recorder can stand at many sites."""

    sums: dict[tuple[Site, float], Tensor] = field(default_factory=dict[tuple[Site, float], Tensor])
    """By site and noise level: (S) sums over rows, float64 on the CPU."""
    rows: dict[tuple[Site, float], int] = field(default_factory=dict[tuple[Site, float], int])
    streams: list[str] = field(default_factory=list[str])

    def wants(
        self, site: Site, sigma: float, percent_to_sigma: Callable[[float], float], state: FlowState
    ) -> bool:
        return True

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        out = attend(q, k, v, step.mask)
        shares = flow_shares(attend, q, k, step).double().sum(0).cpu()
        names = list(stream_names(step.layout))
        if self.streams not in ([], names):
            raise SteeringError(
                step.where,
                expected=f"the streams {', '.join(self.streams)}, as at the first visit",
                found=", ".join(names),
                remedy="Give all conditionings that are sampled together the same number of reference latents.",
            )
        self.streams[:] = names
        key = step.site, step.sigma
        self.sums[key] = self.sums[key] + shares if key in self.sums else shares
        self.rows[key] = self.rows.get(key, 0) + q.shape[0]
        return out

    @property
    def sites(self) -> tuple[Site, ...]:
        """Those that were visited, in the order of a forward pass."""
        return tuple(sorted({site for site, _ in self.sums}))

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels, falling."""
        return tuple(sorted({sigma for _, sigma in self.sums}, reverse=True))

    def shares(self) -> Tensor:
        """(sites, sigmas, S): the means; NaN where a site was not visited."""
        nothing = torch.full((len(self.streams),), float("nan"), dtype=torch.float64)
        table = [
            [
                self.sums[site, sigma] / self.rows[site, sigma] if (site, sigma) in self.sums else nothing
                for sigma in self.sigmas
            ]
            for site in self.sites
        ]
        return torch.stack([torch.stack(row) for row in table]).float()
