"""Which attention, at which step, tells unsafe patches best: each with anchors of its own, on held-out pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...steering.flow.score import ScoreKind
from ...steering.sites import Site
from .collecting import Marked, collect
from .judging import Scoring, judged
from .samples import Progress, Sampler

KINDS = tuple(ScoreKind)
AS_GOOD = 0.02
"""A step is as good as the best if its AUC is at most so much lower."""


@dataclass(frozen=True)
class Search:
    """What was found."""

    sites: tuple[Site, ...]
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    """Of the steps."""
    percents: tuple[float, ...]
    """The part of the schedule that is over after each step."""
    aucs: Tensor
    """(sites, steps, kinds): means over concepts and pictures; NaN where nothing could be judged."""

    def ranked(self) -> list[tuple[Site, ScoreKind, float]]:
        """The attentions by their surest score, a mean over the steps; best first."""
        means = self.aucs.nanmean(1).nan_to_num(-1.0)  # (sites, kinds)
        best, kind = means.max(1)
        order = best.argsort(descending=True, stable=True).tolist()
        return [(self.sites[at], KINDS[int(kind[at])], float(best[at])) for at in order]

    def startup_end(self, site: Site) -> float:
        """The part of the schedule by which the mask is right: after the first step as good as any."""
        own = self.aucs[self.sites.index(site)].nan_to_num(-1.0).amax(1)  # (steps)
        first = int((own >= own.max() - AS_GOOD).nonzero()[0])
        return self.percents[first]

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""

        def figure(value: float) -> float | None:
            return None if math.isnan(value) else round(value, 4)

        return {
            "sigmas": list(self.sigmas),
            "percents": list(self.percents),
            "sites": [
                {
                    "site": str(site),
                    "score": kind.value,
                    "auc": figure(auc),
                    "startup_end": round(self.startup_end(site), 4),
                    "auc_by_step": {
                        one.value: [
                            figure(float(value)) for value in self.aucs[self.sites.index(site), :, at]
                        ]
                        for at, one in enumerate(KINDS)
                    },
                }
                for site, kind, auc in self.ranked()
            ],
        }

    def table(self, rows: int = 12) -> str:
        """The best, for people."""
        lines = ["attention                score      AUC   mask is right by"]
        lines += [
            f"{site!s:<24} {kind.value:<9} {auc:6.3f}   {self.startup_end(site):.2f} of the schedule"
            for site, kind, auc in self.ranked()[:rows]
        ]
        return "\n".join(lines)


def search(
    sampler: Sampler,
    what: Marked,
    sites: Sequence[Site],
    steps: Sequence[int],
    *,
    at_once: int = 8,
    progress: Progress | None = None,
) -> Search:
    """Ranks attentions and steps.

    Args:
        at_once: how many attentions are looked at in one pass over the pictures; each takes memory for every step.
    """
    aucs = torch.full((len(sites), len(steps), len(KINDS)), math.nan)
    for start in range(0, len(sites), at_once):
        some = sites[start : start + at_once]
        collection = collect(sampler, what, some, steps, apart=True, progress=progress)
        anchors = {key: one.anchors() for key, one in collection.collectors.items()}
        found = judged(sampler, what, anchors, steps, progress=progress)
        for row, site in enumerate(some, start):
            for column, step in enumerate(steps):
                for at, kind in enumerate(KINDS):
                    own = [
                        auc
                        for scoring, judgement in found.items()
                        if scoring == Scoring(site, scoring.concept, kind)
                        and not math.isnan(auc := judgement.auc(step))
                    ]
                    if own:
                        aucs[row, column, at] = sum(own) / len(own)
    sigmas = tuple(sampler.sigmas[step] for step in steps)
    below = [*sampler.sigmas[1:], 0.0]
    to_sigma = sampler.model.get_model_object("model_sampling").percent_to_sigma
    ends = tuple(percent_at(below[step], to_sigma) for step in steps)
    return Search(tuple(sites), tuple(steps), sigmas, ends, aucs)


def percent_at(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """The part of the schedule at which a noise level is reached."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if percent_to_sigma(middle) > sigma else (low, middle)
    return high
