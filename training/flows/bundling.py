"""Anchors with their thresholds as a bundle, the attention that tells best first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ...host.attach import attention_sites
from ...steering.errors import BundleError, SteeringError
from ...steering.flow.asked import attention_asked
from ...steering.flow.score import ScoreKind
from ...steering.formats.anchors import (
    AnchorConcept,
    AnchorSite,
    AnchorThreshold,
    anchor_site_of,
    anchor_tensors,
)
from ...steering.formats.bundle import Bundle
from ...steering.formats.header import Base, BundleHeader, Made, header_json, parse_header
from ...steering.formats.writing import write_bundle
from ...steering.sites import Site
from .collecting import Marked, collect, marked, steps_of
from .judging import Judgement, Scoring, judged, thresholds
from .samples import Progress, Sampler

DEFAULT_SITES = 4
BY = "SteerDiT, Collect Unsafe Anchors"


def sites_asked(sampler: Sampler, expression: str) -> tuple[Site, ...]:
    """The attention that an expression names; `default` is some of them, evenly spread over the depth.

    Raises:
        SteeringError: a term names none.
    """
    available = attention_sites(sampler.model)
    if expression.strip() in ("", "default"):
        count = min(DEFAULT_SITES, len(available))
        return tuple(available[(2 * number + 1) * len(available) // (2 * count)] for number in range(count))
    return attention_asked(expression, available)


def collect_bundle(
    sampler: Sampler,
    masks: Tensor,
    path: Path,
    *,
    sites: str = "default",
    collect_at: str = "startup",
    startup_percent: float = 0.36,
    false_positives: float = 0.05,
    several: int = 0,
    base: str = "",
    license: str = "Apache-2.0",
    startup_end: float | None = None,
    progress: Progress | None = None,
) -> tuple[Bundle, str]:
    """Collects anchors, calibrates them on held-out pictures, and writes the bundle → it, and how well it tells.

    Raises:
        SteeringError: the masks do not belong to the pictures, or mark nothing; a site or step is not there.
    """
    what = marked(sampler, masks)
    chosen = sites_asked(sampler, sites)
    startup = steps_of(sampler, "startup", startup_percent)
    steps = steps_of(sampler, collect_at, startup_percent)
    made = Made(
        BY,
        {
            "prompts": len(sampler.examples),
            "masks": len(what.masks),
            "references": len(sampler.references),
            "collect_at": collect_at,
            "startup_percent": startup_percent,
            "false_positives": false_positives,
            "steps": sampler.sampling.steps,
            "cfg": sampler.sampling.cfg,
            "sampler": sampler.sampling.sampler,
            "scheduler": sampler.sampling.scheduler,
        },
    )
    header = BundleHeader(
        name=path.stem,
        family=sampler.family,
        base=Base(base.strip() or "unnamed"),
        license=license.strip(),
        made=made,
    )
    _require_sound(path, header, sampler, chosen)
    collection = collect(sampler, what, chosen, steps, progress=progress)
    anchors = {key: one.anchors(several) for key, one in collection.collectors.items()}
    judgements = judged(sampler, what, anchors, startup, progress=progress)
    ranked = sorted(chosen, key=lambda site: -_worth(judgements, site))
    entries: dict[Site, AnchorSite] = {}
    tensors: dict[str, Tensor] = {}
    refused: list[str] = []
    for site in ranked:
        one, own = collection.collectors[site, -1], anchors[site, -1]
        calibrated, why = thresholds(sampler, what, judgements, site, false_positives)
        entries[site] = anchor_site_of(own, one.patches, one.benign_patches, calibrated, startup_end)
        refused += [f"{site}: {reason}" for reason in why]
        tensors |= anchor_tensors(own)
    return write_bundle(path, replace(header, anchors=entries), tensors), summary(what, entries, refused)


def _require_sound(path: Path, header: BundleHeader, sampler: Sampler, sites: Sequence[Site]) -> None:
    """Refuses what no bundle takes, before pictures are sampled for it: a licence that is none, a concept's name."""
    concepts = dict.fromkeys(example.concept for example in sampler.examples if example.concept is not None)
    trial = AnchorSite(1, 1, 1, tuple(AnchorConcept(name, 1) for name in concepts))
    try:
        parse_header(header_json(replace(header, anchors=dict.fromkeys(sites, trial)), {}), path.name)
    except BundleError as refusal:
        raise SteeringError(
            refusal.where,
            expected=refusal.expected,
            found=refusal.found,
            remedy="No bundle takes it: change it.",
        ) from refusal


def _worth(judgements: Mapping[Scoring, Judgement], site: Site) -> float:
    """How well the surest score tells all concepts there; −1 where nothing was judged."""
    by_kind: dict[tuple[ScoreKind, bool], list[float]] = {}
    for scoring, one in judgements.items():
        if scoring.site == site and not math.isnan(one.auc()):
            by_kind.setdefault((scoring.kind, scoring.several), []).append(one.auc())
    return max((sum(found) / len(found) for found in by_kind.values()), default=-1.0)


def summary(what: Marked, entries: Mapping[Site, AnchorSite], refused: Sequence[str]) -> str:
    """For people: what was seen, and how well each attention tells each concept."""
    lines = [f"{len(what.learn)} pictures to learn from, {len(what.judge)} to judge by"]
    if what.empty:
        lines.append(f"warning: {len(what.empty)} unsafe pictures have an empty mask and are left out")
    for site, entry in entries.items():
        lines.append(
            f"{site}: {entry.heads} heads of {entry.head_width}, {entry.benign_patches} benign patches"
        )
        for row in entry.rows:
            lines.append(f"  {row.name}: {row.patches} unsafe patches" + _figures(row.thresholds))
    return "\n".join([*lines, *(f"not calibrated: {reason}" for reason in refused)])


def _figures(thresholds: Iterable[AnchorThreshold]) -> str:
    return "".join(
        f"\n    {one.score}{' several' if one.several else ''}: AUC {_shown(one.auc)}, threshold {one.value:.4g}, "
        f"marks {_shown(one.recall and one.recall.value)} of unsafe and "
        f"{_shown(one.false_positive and one.false_positive.value)} of benign pictures"
        for one in thresholds
    )


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"
