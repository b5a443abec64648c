"""How well anchors tell unsafe patches, on pictures they were not made from; and the thresholds that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...evaluation.roc import area_under_roc
from ...steering.errors import SteeringError
from ...steering.flow.anchors import Anchors
from ...steering.flow.given import given_mask
from ...steering.flow.score import Detector, ScoreKind
from ...steering.flow.watching import Seen
from ...steering.formats.anchors import AnchorThreshold
from ...steering.sites import Site
from .collecting import Marked, among, step_at
from .localisation import Scored, calibrate
from .samples import Progress, Sampler

COVERED = 0.9
"""Of the unsafe patches in masks: what thresholds cover at least, where benign pictures allow for it."""


class Scoring(NamedTuple):
    """How one concept is scored at one attention."""

    site: Site
    concept: str
    kind: ScoreKind
    several: bool = False


@dataclass
class Judgement:
    """What a score said of held-out pictures."""

    aucs: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """By step: for each unsafe picture, that a patch in its mask scores higher than one outside."""
    scores: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """By number of the example: (H, W), the highest of all steps."""

    def auc(self, step: int | None = None) -> float:
        """The mean over pictures, at one step or at all; NaN where there are none."""
        found = [auc for at, own in self.aucs.items() if step in (None, at) for auc in own]
        return sum(found) / len(found) if found else math.nan


def judged(
    sampler: Sampler,
    what: Marked,
    anchors: Mapping[tuple[Site, int], Anchors],
    steps: Sequence[int],
    *,
    kinds: Sequence[ScoreKind] = tuple(ScoreKind),
    progress: Progress | None = None,
) -> dict[Scoring, Judgement]:
    """Samples the held-out examples again and scores their patches at these steps.

    Args:
        anchors: by site and step; step −1 serves all steps.
    """
    detectors = {key: list(_detectors(own, kinds)) for key, own in anchors.items()}
    found: dict[Scoring, Judgement] = {}

    def take(number: int, seen: Seen) -> None:
        step, concept = step_at(sampler, seen.sigma), sampler.examples[number].concept
        for scoring, detector in detectors.get((seen.site, step), detectors.get((seen.site, -1), [])):
            if concept not in (None, scoring.concept):
                continue
            scores = detector.score(seen.outputs).float().cpu().view(seen.grid)
            one = found.setdefault(scoring, Judgement())
            one.scores[number] = torch.maximum(scores, one.scores.get(number, scores))
            if concept is not None:
                mask = given_mask(what.masks[number][None], 0, seen.grid)
                auc = area_under_roc(scores[mask], scores[~mask])
                if not math.isnan(auc):
                    one.aucs.setdefault(step, []).append(auc)

    sites = list(dict.fromkeys(site for site, _ in anchors))
    sampler.watch(sites, take, keeps=among(sampler, steps), among=what.judge, progress=progress)
    return found


def _detectors(anchors: Anchors, kinds: Sequence[ScoreKind]) -> list[tuple[Scoring, Detector]]:
    scores = [
        (kind, several)
        for kind in kinds
        if kind is ScoreKind.DOT or anchors.benign is not None
        for several in (False, True)[: 1 + (anchors.means.shape[1] > 1)]
    ]
    return [
        (
            Scoring(anchors.site, concept, kind, several),
            anchors.detector(concept, kind, 0.0, several=several),
        )
        for concept in anchors.concepts
        for kind, several in scores
    ]


def thresholds(
    sampler: Sampler,
    what: Marked,
    judgements: Mapping[Scoring, Judgement],
    site: Site,
    false_positives: float,
) -> tuple[dict[str, tuple[AnchorThreshold, ...]], list[str]]:
    """The calibrated thresholds of each concept at one attention, and why some could not be calibrated."""
    found: dict[str, tuple[AnchorThreshold, ...]] = {}
    refused: list[str] = []
    for scoring, one in judgements.items():
        if scoring.site != site:
            continue
        pictures = [
            Scored(
                scores,
                given_mask(what.masks[number][None], 0, _size(scores)) if number in what.masks else None,
            )
            for number, scores in one.scores.items()
            if sampler.examples[number].concept in (None, scoring.concept)
        ]
        try:
            record = calibrate(
                pictures, scoring.kind, false_positive=false_positives, covered=COVERED
            ).record(scoring.kind, scoring.several)
        except SteeringError as refusal:
            refused.append(f"{scoring.concept}, {scoring.kind.value}: AUC {one.auc():.2f}; {refusal.found}")
        else:
            found[scoring.concept] = (*found.get(scoring.concept, ()), record)
    return found, refused


def _size(scores: Tensor) -> tuple[int, int]:
    return scores.shape[0], scores.shape[1]
