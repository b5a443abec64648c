"""How well unsafe patches are found, and from which score on they are to be marked. All ours.

A picture is marked if anything of it is left after the whole course of thresholds, closing and components
(steering/flow/localise.py). Raising τ can only take patches away, so each picture has a peak, the highest τ at which it
is still marked; the lowest τ that serves lies just above the peaks of all benign pictures but the share that may be
marked. Where unsafe patches stand out, masks at that τ go far beyond them; then the τ that is taken is the highest
that still covers most patches that are known to be unsafe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...evaluation.rates import Rate, rate
from ...evaluation.roc import area_under_roc
from ...steering.errors import SteeringError
from ...steering.flow.localise import GENERATION, WHOLE, Selection, localise
from ...steering.flow.score import ScoreKind
from ...steering.formats.anchors import AnchorThreshold
from ...steering.formats.categories import RateRecord


@dataclass(frozen=True)
class Scored:
    """The scores of one picture's patches."""

    scores: Tensor
    """(H, W)"""
    mask: Tensor | None = None
    """(H, W) bool: where it is unsafe; None for a benign picture."""


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it does to the pictures that it was set by."""

    threshold: float
    false_positive: Rate
    """Benign pictures in which anything is marked."""
    recall: Rate
    """Unsafe pictures in which anything is marked."""
    auc: float
    """Of patches: inside the masks against outside of them and in benign pictures."""
    iou: float
    """Mean over unsafe pictures, of what is marked and the mask."""

    def record(self, kind: ScoreKind, several: bool = False) -> AnchorThreshold:
        """As a bundle stores it."""
        return AnchorThreshold(
            score=kind.value,
            value=self.threshold,
            several=several,
            false_positive=RateRecord(
                self.false_positive.value, self.false_positive.low, self.false_positive.high
            ),
            recall=RateRecord(self.recall.value, self.recall.low, self.recall.high),
            auc=self.auc,
        )


def localisation_auc(pictures: Iterable[Scored]) -> float:
    """AUC over all patches of pictures: unsafe patches against all others."""
    inside: list[Tensor] = []
    outside: list[Tensor] = []
    for picture in pictures:
        mask = torch.zeros_like(picture.scores, dtype=torch.bool) if picture.mask is None else picture.mask
        inside.append(picture.scores[mask])
        outside.append(picture.scores[~mask])
    return area_under_roc(torch.cat(inside), torch.cat(outside)) if inside else math.nan


def intersection_over_union(one: Tensor, other: Tensor) -> float:
    """Of two masks (H, W); 1 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def peak(scores: Tensor, selection: Selection = GENERATION) -> float:
    """The highest threshold at which anything of a picture (H, W) is marked; −∞ where nothing ever is.

    Only the size of components counts there, not which of them are chosen.
    """
    values = scores.flatten().unique()  # rising
    anything = replace(selection, mass_ratio=None, top=None, ring=0)
    low, high = -1, len(values) - 1  # marked at values[low], if ever; the search is over what is above
    while low < high:
        middle = (low + high + 1) // 2
        if localise(scores, float(values[middle]), anything).is_empty:
            high = middle - 1
        else:
            low = middle
    return float(values[low]) if low >= 0 else -math.inf


def calibrate(
    pictures: Sequence[Scored],
    kind: ScoreKind,
    *,
    false_positive: float = 0.01,
    selection: Selection = GENERATION,
    covered: float = 1.0,
) -> Calibration:
    """A threshold that marks at most a share of the benign pictures: the lowest, or one that still covers enough.

    Args:
        pictures: benign and unsafe ones.
        false_positive: the share of benign pictures that may be marked.
        covered: the share of unsafe patches that score no less than the threshold, if benign pictures allow for it;
            at 1 the lowest threshold is taken.

    Raises:
        SteeringError: pictures of one kind are missing, a score is not finite, or no threshold divides them: it would
            mark no unsafe picture at all, or whole pictures.
    """
    benign = [picture for picture in pictures if picture.mask is None]
    unsafe = [picture for picture in pictures if picture.mask is not None]
    where = f"threshold of the {kind.value} score"
    if not benign or not unsafe:
        raise SteeringError(
            where,
            expected="scores of benign and of unsafe pictures",
            found=f"{len(benign)} benign and {len(unsafe)} unsafe ones",
            remedy="Give prompts of both kinds.",
        )
    if not all(bool(picture.scores.isfinite().all()) for picture in pictures):
        raise SteeringError(
            where,
            expected="finite scores",
            found="NaN or infinite numbers",
            remedy="The model overflows. Run it in bfloat16 or float32, or choose another attention.",
        )
    peaks = sorted((peak(picture.scores, selection) for picture in benign), reverse=True)
    allowed = min(math.floor(false_positive * len(peaks)), len(peaks) - 1)
    threshold = _above(peaks[allowed], [picture.scores for picture in unsafe], kind)
    if covered < 1:
        threshold = max(threshold, _covering(covered, unsafe))
    regions = [localise(picture.scores, threshold, selection) for picture in unsafe]
    recall = rate(not region.is_empty for region in regions)
    if recall.value == 0:
        raise SteeringError(
            where,
            expected="unsafe pictures that score higher than benign ones",
            found=f"none of {len(unsafe)} above the threshold {threshold:.4g} that benign pictures set",
            remedy="The score does not tell them apart here. Choose another attention, step or score.",
        )
    shares = sorted(float(region.core.float().mean()) for region in regions)
    if shares[len(shares) // 2] >= WHOLE:
        raise SteeringError(
            where,
            expected="a threshold that marks the unsafe part of a picture",
            found=f"{threshold:.4g}, which marks everything in most unsafe pictures",
            remedy="The score does not tell patches apart here. Choose another attention, step or score.",
        )
    return Calibration(
        threshold=threshold,
        false_positive=rate(one >= threshold for one in peaks),
        recall=recall,
        auc=localisation_auc(pictures),
        iou=_overlap(unsafe, threshold, selection),
    )


def _overlap(unsafe: Sequence[Scored], threshold: float, selection: Selection) -> float:
    """Mean over unsafe pictures: what is marked, against the mask."""
    found = [
        intersection_over_union(localise(picture.scores, threshold, selection).core, picture.mask)
        for picture in unsafe
        if picture.mask is not None
    ]
    return sum(found) / len(found)


def _covering(share: float, unsafe: Sequence[Scored]) -> float:
    """The highest threshold that a share of the patches inside the masks reach."""
    inside = torch.cat([picture.scores[picture.mask] for picture in unsafe if picture.mask is not None])
    return float(torch.quantile(inside, 1 - share, interpolation="lower"))


def _above(level: float, unsafe: Sequence[Tensor], kind: ScoreKind) -> float:
    """A threshold above a level: halfway to the next unsafe score, that rounding may not decide."""
    higher = torch.cat([scores[scores > level] for scores in unsafe])
    if math.isinf(level):
        level = min(float(scores.min()) for scores in unsafe)
    if not len(higher):
        return _next(level)
    middle = (level + float(higher.min())) / 2
    found = middle if float(torch.tensor(middle)) > level else _next(level)
    return max(found, math.nextafter(kind.lowest, math.inf)) if math.isfinite(kind.lowest) else found


def _next(level: float) -> float:
    """The next number above, of those that scores can be: they are compared in single precision."""
    return float(torch.nextafter(torch.tensor(level), torch.tensor(math.inf)))
