"""Carries directions from a source encoder to a target, and calibrates their gates there on benign texts.

    ṽ = T(v) by the map's linear part, or mean_i [T(h_i + v) − T(h_i)] for a network      (2606.05290)
    v_t = β ‖v‖ ṽ / ‖ṽ‖,    β = median ‖h_t‖ / median ‖h_s‖ over centred anchors

A gate's threshold τ_c is a high quantile of its score (steering/directions.py) over benign texts (ours): each
category's own, or jointly such that the share of benign texts on which any category's gate opens is what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...evaluation.rates import wilson
from ...steering.directions import DirectionSet
from ...steering.errors import SteeringError
from ...steering.formats.categories import RateRecord
from ...steering.formats.directions import GLOBAL, Alignment, Anchors, DirectionSite
from .align import FittedMap
from .anchors import Benign
from .sources import HiddenStates, Layer, Progress, require_layers

QUANTILE = 0.99


def transport(directions: DirectionSet, fitted: FittedMap) -> DirectionSet:
    """Directions at the map's source → directions at its target, not yet calibrated.

    Raises:
        SteeringError: they live elsewhere than where the map begins, or the map sends one to nothing.
    """
    at, begins, width = directions.about.encoder, fitted.source, len(fitted.standard_source.centre)
    known = at.fingerprint in (None, begins.fingerprint)  # files of other projects do not say it
    if not known or at.layer != begins.layer or directions.width != width:
        raise SteeringError(
            directions.source,
            expected=f"directions of {begins.name} at layer {begins.layer}, of width {width}, where the map begins",
            found=f"directions of {at.name} at layer {at.layer}, of width {directions.width}",
            remedy="Align the encoder and layer that these directions were estimated in.",
        )
    vectors = torch.stack(
        [_carried(v, fitted, name) for v, name in zip(directions.vectors, directions.names)]
    )
    quality = fitted.quality
    about = DirectionSite(
        width=vectors.shape[1],
        encoder=fitted.target,
        directions=tuple(
            replace(one, threshold=None, false_positive=None, recall=None)
            for one in directions.about.directions
        ),
        alignment=Alignment(
            fitted.kind, fitted.source, fitted.anchors, quality.r2, quality.null_r2, quality.cosine
        ),
    )
    mean = fitted.standard_target.centre.float()
    return DirectionSet(about, vectors, mean, f"directions carried to {fitted.target.name}")


def calibrate(
    directions: DirectionSet,
    encoder: HiddenStates,
    layer: Layer,
    benign: Benign,
    *,
    quantile: float = QUANTILE,
    joint: bool = False,
    progress: Progress | None = None,
) -> DirectionSet:
    """Sets the mean of benign tokens and each category's threshold: the quantile of its score over benign texts.

    ``joint``: the quantile is of the texts that open no gate of any category, whose thresholds are raised alike. The
    global direction, which acts alone, keeps its own.

    Prompts as people write them serve better than single phrases, for a gate looks at the highest score of any token
    and longer texts have more of these. The share of the very texts that stays above is stored with it.

    Raises:
        SteeringError: another encoder than the directions', a quantile beyond 1, or texts without tokens.
    """
    at = directions.about.encoder
    known = at.fingerprint in (None, encoder.fingerprint())
    if not known or at.layer != layer or directions.width != encoder.width:
        raise SteeringError(
            f"calibration of {directions.source}",
            expected=f"{at.name} at layer {at.layer}, where the directions live, of width {directions.width}",
            found=f"{encoder.name} at layer {layer}, of width {encoder.width}",
            remedy="Connect the text encoder that they were carried to.",
        )
    require_share(quantile)
    require_layers(encoder, (layer,))
    # Read twice, for the mean has to be known first: all tokens of thousands of long prompts would not fit in memory.
    total, count = torch.zeros(directions.width, dtype=torch.float64), 0
    for states in _tokens(encoder, layer, benign, progress, 0):
        total, count = total + states.double().sum(0), count + len(states)
    centred = replace(directions, mean=(total / count).float())
    scores = torch.stack(
        [centred.scores(states).amax(0) for states in _tokens(encoder, layer, benign, progress, 1)]
    )  # (n, C)
    thresholds = torch.quantile(scores.double(), quantile, dim=0)
    if joint:
        together = [i for i, name in enumerate(centred.names) if name != GLOBAL]
        thresholds[together] = joint_thresholds(scores[:, together], quantile)
    thresholds = thresholds.clamp(0.0, 1.0)
    rates = [
        wilson(int((column > tau).sum()), len(benign)) for column, tau in zip(scores.T.double(), thresholds)
    ]
    calibrated = tuple(
        replace(one, threshold=float(tau), false_positive=RateRecord(rate.value, rate.low, rate.high))
        for one, tau, rate in zip(directions.about.directions, thresholds, rates)
    )
    about = replace(directions.about, directions=calibrated, benign=Anchors(benign.sha256, len(benign)))
    return replace(centred, about=about)


def require_share(quantile: float) -> None:
    """Raises SteeringError unless it is from 0 to 1."""
    if not 0 <= quantile <= 1:
        raise SteeringError(
            "quantile", expected="a share from 0 to 1", found=f"{quantile}", remedy="0.99 is the usual one."
        )


def joint_thresholds(scores: Tensor, quantile: float) -> Tensor:
    """Scores (n, C) → thresholds (C), each the score of the same rank, that at least ``quantile`` of rows pass none of.

    The lowest such ranks are taken.
    """
    falling = scores.double().sort(dim=0, descending=True).values
    most = (1 - quantile) * len(scores) + 1e-9
    rank = 0
    while rank + 1 < len(scores) and int((scores > falling[rank + 1]).any(1).sum()) <= most:
        rank += 1
    return falling[rank]


def _tokens(
    encoder: HiddenStates, layer: Layer, benign: Benign, progress: Progress | None, reading: int
) -> Iterator[Tensor]:
    """The states (L, d) of each text in turn, at the first or the second of two readings."""
    for number, (text, states) in enumerate(zip(benign.texts, encoder.states(benign.texts, (layer,))), 1):
        if not states.shape[1]:
            raise SteeringError(
                f"{encoder.name}: {text!r}",
                expected="a text with at least one token of its own",
                found="none",
                remedy="Take this text out.",
            )
        yield states[0]
        if progress is not None:
            progress(reading * len(benign) + number, 2 * len(benign))


def _carried(v: Tensor, fitted: FittedMap, name: str) -> Tensor:
    step = fitted.step(v)
    length = float(step.norm())
    if not length > 0:
        raise SteeringError(
            f"direction {name!r}",
            expected="a direction that the map carries over",
            found="nothing of it at the target",
            remedy="Align with a ridge map, or on broader anchors.",
        )
    return step * (fitted.beta * float(v.norm()) / length)
