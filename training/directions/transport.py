"""Carries directions from a source encoder to a target, and calibrates their gates there on benign texts.

    ṽ = T(v) by the map's linear part, or mean_i [T(h_i + v) − T(h_i)] for a network      (2606.05290)
    v_t = β ‖v‖ ṽ / ‖ṽ‖,    β = median ‖h_t‖ / median ‖h_s‖ over centred anchors

A gate's threshold τ_c is a high quantile of its score (steering/directions.py) over benign texts (ours): each
category's own, or jointly such that the share of benign texts on which any category's gate opens is what is left.
"""

from __future__ import annotations

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
    if (at.fingerprint, at.layer) != (begins.fingerprint, begins.layer) or directions.width != width:
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
        SteeringError: another encoder than the directions', no texts, or texts without tokens.
    """
    at = directions.about.encoder
    if at.fingerprint not in (None, encoder.fingerprint()) or at.layer != layer:
        raise SteeringError(
            f"calibration of {directions.source}",
            expected=f"{at.name} at layer {at.layer}, where the directions live",
            found=f"{encoder.name} at layer {layer}",
            remedy="Connect the text encoder that they were carried to.",
        )
    require_layers(encoder, (layer,))
    tokens: list[Tensor] = []
    for text, states in zip(benign.texts, encoder.states(benign.texts, (layer,))):
        if not states.shape[1]:
            raise SteeringError(
                f"{encoder.name}: {text!r}",
                expected="a text with at least one token of its own",
                found="none",
                remedy="Take this text out.",
            )
        tokens.append(states[0])
        if progress is not None:
            progress(len(tokens), len(benign))
    mean = torch.cat(tokens).double().mean(0).float()
    centred = replace(directions, mean=mean)
    scores = torch.stack([centred.scores(states).amax(0) for states in tokens])  # (n, C)
    thresholds = torch.quantile(scores.double(), quantile, dim=0)
    if joint:
        together = [i for i, name in enumerate(centred.names) if name != GLOBAL]
        thresholds[together] = joint_thresholds(scores[:, together], quantile)
    thresholds = thresholds.clamp(0.0, 1.0)
    rates = [
        wilson(int((column > tau).sum()), len(tokens)) for column, tau in zip(scores.T.double(), thresholds)
    ]
    calibrated = tuple(
        replace(one, threshold=float(tau), false_positive=RateRecord(rate.value, rate.low, rate.high))
        for one, tau, rate in zip(directions.about.directions, thresholds, rates)
    )
    about = replace(directions.about, directions=calibrated, benign=Anchors(benign.sha256, len(benign)))
    return replace(centred, about=about)


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
