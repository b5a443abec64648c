"""What was found, in words: for nodes and commands."""

from __future__ import annotations

from collections.abc import Sequence

from ...steering.directions import DirectionSet
from .align import FittedMap
from .estimate import Estimate
from .layers import LayerScore
from .pairs import PromptPairs
from .sources import Layer, layer_name


def pairs_report(pairs: PromptPairs) -> str:
    """How many pairs there are of each category, and what was left out."""
    held = pairs.select(held_out=True).counts()
    lines = [
        f"{name}: {count} pairs" + (f", {held[name]} of them kept for judging" if name in held else "")
        for name, count in pairs.counts().items()
    ]
    ignored = [f"fields that say nothing here: {', '.join(pairs.ignored[:10])}"] if pairs.ignored else []
    return "\n".join([f"{len(pairs.pairs)} pairs, {pairs.duplicates} duplicates left out", *lines, *ignored])


def estimate_report(estimate: Estimate) -> str:
    """How sure each direction is."""
    at = estimate.directions.about.encoder
    lines = [f"{at.name}, {layer_title(at.layer)}"]
    for name, found in estimate.evidence.items():
        low, high = found.norm_interval
        lines.append(
            f"{name}: {found.pairs} pairs, length {float(found.vector.norm()):.3g} ({low:.3g} to {high:.3g}), "
            f"halves agree to {found.split_half:.2f}" + ("" if found.split_half >= 0.5 else ": mostly noise")
        )
    return "\n".join(lines)


def layers_report(scores: Sequence[LayerScore]) -> str:
    """What each layer that was tried is good for."""
    return "\n".join(
        f"{layer_title(one.layer)}: AUROC {one.auroc:.3f}, held-out R² {one.r2:.2f}"
        + ("" if one.contrast is None else f", benign directions {one.contrast:.2f}")
        for one in scores
    )


def map_report(fitted: FittedMap) -> str:
    """How good a map is, beside chance."""
    q = fitted.quality
    lines = [
        f"{fitted.kind} from {fitted.source.name} ({layer_title(fitted.source.layer)}) to {fitted.target.name}",
        f"{fitted.anchors.count} benign anchors, {fitted.anchors.sha256[:12]}",
        f"held-out R² {q.r2:.3f}, cosine {q.cosine:.3f}",
        f"shuffled pairs: R² {q.null_r2:.3f}, cosine {q.null_cosine:.3f}",
    ]
    if q.contrast is not None:
        lines.append(f"benign directions that it has not seen arrive with cosine {q.contrast:.2f}")
    return "\n".join(lines)


def gates_report(directions: DirectionSet) -> str:
    """The thresholds of each direction."""
    at = directions.about.encoder
    lines = [f"{at.name}, {layer_title(at.layer)}"]
    for one in directions.about.directions:
        opened = (
            "" if one.false_positive is None else f", opens on {one.false_positive.value:.1%} of benign texts"
        )
        said = "not calibrated" if one.threshold is None else f"threshold {one.threshold:.3f}{opened}"
        lines.append(f"{one.name}: {said}")
    return "\n".join(lines)


def layer_title(layer: Layer) -> str:
    return layer_name(layer) if layer is None else f"layer {layer}"
