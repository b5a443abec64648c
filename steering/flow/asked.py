"""What people ask of a restriction, in the node and in benchmarks, as a RestrictFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import SteeringError
from ..formats.bundle import Bundle
from ..schedules import Schedule
from ..selection import ALL, select
from ..sites import Site, select_sites
from .given import marked_by
from .groups import Flow, Weights
from .localise import EDITING, GENERATION, Selection
from .memory import Memory
from .modifier import RestrictFlow
from .noise import Noise
from .score import PUBLISHED, PUBLISHED_EDITING, Detector, ScoreKind

THRESHOLDS = ("calibrated", "published", "given")
FORMS = ("renormalised", "unrenormalised")


@dataclass(frozen=True)
class Task:
    """How the paper's two tasks differ, and what holds for both at once (ours)."""

    flow: Flow
    selection: Selection
    memory: Memory


TASKS = {
    "generation": Task(Flow.CONTENT, GENERATION, Memory.UNION),
    "editing": Task(Flow.REFERENCE, EDITING, Memory.FIRST),
    "both": Task(Flow.BOTH, EDITING, Memory.UNION),
}


def restriction_asked(
    available: Sequence[Site],
    bundle: Bundle | None,
    mask: Tensor | None,
    *,
    task: str = "generation",
    concepts: str = "all",
    score: str = "whitened",
    threshold: str = "calibrated",
    threshold_value: float = 0.0,
    localise_at: str = "default",
    sites: str = "all",
    core: float = 0.2,
    ring: float = 0.4,
    safe: float = 1.05,
    noise: float = 0.999,
    startup_percent: float = 0.36,
    end_percent: float = 0.36,
    form: str = "renormalised",
    several: bool = False,
    heads: str = "all",
    noise_percent: float = 1.0,
    spread: float = 1.0,
) -> RestrictFlow:
    """The restriction that the words ask for.

    Args:
        available: the model's attention sites.
        bundle: with anchors; None where a mask is given.
        mask: (M, H, W), marked where above 0.5.

    Raises:
        SteeringError: names the input that cannot be followed, and what it could be.
    """
    if (bundle is None) == (mask is None):
        raise SteeringError(
            "Restrict Flow",
            expected="either a bundle with anchors or a mask",
            found="neither" if bundle is None else "both",
            remedy="Connect one of bundle and mask.",
        )
    chosen = TASKS[task]
    restricted = attention_asked(sites, available)
    detectors: tuple[Detector, ...] = ()
    site = None
    wanted_heads = _heads(heads)
    if bundle is not None:
        site = localising_site(bundle, localise_at)
        named = select(concepts, bundle.anchors[site].concepts, str.__eq__, "concepts")
        if threshold == "calibrated" and concepts.strip() in ("", *ALL):
            # Whoever asks for all asks for those that can be told; naming one that cannot be is an error.
            left_out = uncalibrated(bundle, site, score, several)
            named = tuple(concept for concept in named if concept not in left_out) or named
        detectors = tuple(
            _detector(bundle, site, concept, ScoreKind(score), threshold, threshold_value, task, several)
            for concept in named
        )
        if not detectors:
            raise SteeringError(
                "concepts",
                expected="at least one of " + ", ".join(bundle.anchors[site].concepts),
                found=f"none, by {concepts!r}",
                remedy="Name a concept that the bundle has anchors of.",
            )
    return RestrictFlow(
        site=site,
        detectors=detectors,
        masks=None if mask is None else marked_by(mask),
        sites=None if set(restricted) == set(available) else frozenset(restricted),
        selection=replace(chosen.selection, spread=spread),
        memory=chosen.memory,
        flow=chosen.flow,
        weights=Weights(core, ring, safe),
        renormalise=form == "renormalised",
        noise=Noise(noise),
        heads=wanted_heads,
        startup=Schedule(0.0, startup_percent),
        active=Schedule(0.0, end_percent),
        noisy=Schedule(0.0, noise_percent),
    )


def attention_asked(expression: str, available: Sequence[Site]) -> tuple[Site, ...]:
    """The attention sites that an expression names.

    Raises:
        SteeringError: a term matches none, or nothing is left.
    """
    found = select_sites(expression, available)
    if not found:
        raise SteeringError(
            "sites",
            expected="at least one attention",
            found=f"none, by {expression!r}",
            remedy="Write `all`, or patterns such as `single.*.attention`.",
        )
    return found


def localising_site(bundle: Bundle, expression: str) -> Site:
    """The one attention site of a bundle that an expression names; `default` is the first, which found best.

    Raises:
        SteeringError: the bundle has no anchors, or the expression names none or several of their sites.
    """
    if not bundle.anchors:
        raise SteeringError(
            str(bundle.path),
            expected="a bundle with anchors of unsafe content",
            found="one without, so that nothing would be found",
            remedy="Collect some with Collect Unsafe Anchors, or use the bundle with the node it was made for.",
        )
    if expression.strip() in ("", "default"):
        return next(iter(bundle.anchors))
    found = select_sites(expression, bundle.anchors)
    if len(found) != 1:
        raise SteeringError(
            f"localise_at {expression!r}",
            expected="one of " + ", ".join(map(str, bundle.anchors)),
            found=", ".join(map(str, found)) or "none",
            remedy="Name the one attention where unsafe content is looked for.",
        )
    return found[0]


def uncalibrated(bundle: Bundle, site: Site, score: str, several: bool = False) -> tuple[str, ...]:
    """The concepts at an attention that have no calibrated threshold of a score."""
    entry = bundle.anchors[site]
    return tuple(name for name in entry.concepts if entry.threshold(name, score, several) is None)


def described(restriction: RestrictFlow) -> str:
    """Where it looks, for what, by which thresholds, and what it does then; one line each."""
    lines = (
        ["marked by the mask that is given"]
        if restriction.masks is not None
        else [
            f"{detector.concept}: {detector.kind.value} score at {restriction.site} from {detector.threshold:.4g} on"
            for detector in restriction.detectors
        ]
    )
    weights, noise = restriction.weights, restriction.noise.alpha
    lines.append(
        f"{restriction.flow.value}: core {weights.core:g}, ring {weights.ring:g}, safe {weights.safe:g} until "
        f"{restriction.active.end_percent:g}; noise {noise:g} until "
        f"{min(part.end_percent for part in (restriction.startup, restriction.noisy, restriction.active)):g}"
    )
    return "\n".join(lines)


def _detector(
    bundle: Bundle,
    site: Site,
    concept: str,
    kind: ScoreKind,
    mode: str,
    value: float,
    task: str,
    several: bool,
) -> Detector:
    anchors = bundle.read_anchors(site)
    if mode == "published":
        value = _published(concept, kind, task)
    elif mode == "calibrated":
        known = bundle.anchors[site].threshold(concept, kind.value, several)
        if known is None:
            raise SteeringError(
                f"{bundle.path}: {site}",
                expected=f"a calibrated threshold of the {kind.value} score of {concept}",
                found="none",
                remedy=_alternatives(bundle, concept),
            )
        value = known
    return anchors.detector(concept, kind, value, several=several)


def _alternatives(bundle: Bundle, concept: str) -> str:
    """What a bundle does have calibrated thresholds of a concept for."""
    known = [
        f"{one.score}{' with several' if one.several else ''} at {site}"
        for site, entry in bundle.anchors.items()
        for row in entry.rows
        if row.name == concept
        for one in row.thresholds
    ]
    rather = "Choose another score, or give a threshold yourself."
    return f"It has some for {', '.join(known[:6])}: choose that score and localise_at." if known else rather


def _published(concept: str, kind: ScoreKind, task: str) -> float:
    if kind is not ScoreKind.DOT:
        raise SteeringError(
            "threshold published",
            expected="score dot, which the published thresholds are of",
            found=f"score {kind.value}",
            remedy="Choose score dot, or a calibrated threshold.",
        )
    if task == "editing":
        return PUBLISHED_EDITING
    name = concept.lower()
    known = PUBLISHED.get(name, PUBLISHED.get(name.rstrip("s")))
    if known is None:
        raise SteeringError(
            f"threshold of {concept}",
            expected="one of " + ", ".join(PUBLISHED),
            found=f"{concept}, of which the paper says none",
            remedy="Choose a calibrated threshold, or give one yourself.",
        )
    return known


def _heads(text: str) -> tuple[int, ...] | None:
    if text.strip() in ("", "all", "default"):
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise SteeringError(
            f"heads {text!r}",
            expected="`all`, or numbers of heads such as `0, 3, 7`",
            found=repr(text),
            remedy="Write the numbers with commas between them.",
        )
    return tuple(sorted({int(word) for word in words}))
