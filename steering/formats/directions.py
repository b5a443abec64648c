"""The section of a bundle's header about directions: whose states they live among, and how they came there.

A direction stands for a risk category as the step from unsafe to safe. One that was carried over from another
encoder says by which map, and with which evidence: the benign anchors that the map was fitted on (their sha256), its
held-out R², and the R² that the same fit reaches on shuffled pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .categories import RateRecord, rate_of, rates_json, require_category_name
from .fields import SHA256, Field

GLOBAL = "global"
"""The name of the one direction over all categories."""

MAPS = ("procrustes", "ridge", "mlp")

DIRECTION_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "flux": ("text", "double", "single"),
    "sd3": ("text", "joint"),
    "flux2": ("text",),
    "qwen_image": ("text",),
    "z_image": ("text",),
    "lumina2": ("text",),
    "hunyuan_video": ("text",),
    "wan": ("text",),
    "ltx": ("text",),
}
"""The blocks at which a bundle of each family may hold directions."""


@dataclass(frozen=True)
class Encoder:
    """Whose states directions live among: a text encoder or language model, or a generator at a block."""

    name: str
    fingerprint: str | None = None
    """sha256 by which it is known again; None where it cannot be said."""
    layer: int | None = None
    """Hidden state, 0 for the embedding; None for the output that a generator is given."""


@dataclass(frozen=True)
class Anchors:
    """The benign texts by which a map or a threshold was made."""

    sha256: str
    count: int


@dataclass(frozen=True)
class Alignment:
    """The map by which directions came from another encoder, and the evidence for it."""

    kind: str
    """One of MAPS."""
    source: Encoder
    anchors: Anchors
    r2: float
    """On held-out anchors; at most 1."""
    null: float
    """The same, fitted on shuffled pairs."""
    cosine: float | None = None
    """Mean over held-out anchors of the cosine between what is mapped and what is there."""


@dataclass(frozen=True)
class Direction:
    """One category's direction."""

    name: str
    weight: float = 1.0
    """Where weights are given; at least 0."""
    threshold: float | None = None
    """τ, a benign quantile of the category's score, 0 to 1 (see steering/directions.py); None if not calibrated."""
    false_positive: RateRecord | None = None
    """Of the gate on benign prompts."""
    recall: RateRecord | None = None
    """Of the gate on prompts of the category."""


@dataclass(frozen=True)
class DirectionSite:
    """The directions of one place; rows of its tensors in the order of `directions`."""

    width: int
    encoder: Encoder
    directions: tuple[Direction, ...]
    alignment: Alignment | None = None
    """None for native directions."""
    benign: Anchors | None = None
    """What mean and thresholds were measured on."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(direction.name for direction in self.directions)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that must be there: by name within the site."""
        return {"direction": (len(self.directions), self.width), "direction_mean": (self.width,)}

    def optional_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that may be there: none."""
        return {}


def direction_site(entry: Field) -> DirectionSite:
    """Reads the directions of one site.

    Raises:
        BundleError: names the field, what was expected, what was found, what to do.
    """
    fields = entry.record("width encoder directions", "alignment benign")
    directions = tuple(_direction(row) for row in fields["directions"].items())
    names = [direction.name for direction in directions]
    if not names or len(set(names)) != len(names):
        fields["directions"].refuse("at least one direction, and each name once", ", ".join(names) or "none")
    return DirectionSite(
        width=fields["width"].integer(1, 2**31),
        encoder=_encoder(fields["encoder"]),
        directions=directions,
        alignment=fields["alignment"].optional(_alignment) if "alignment" in fields else None,
        benign=fields["benign"].optional(_anchors) if "benign" in fields else None,
    )


def direction_site_json(site: DirectionSite) -> dict[str, object]:
    """What `direction_site` reads back."""
    alignment, benign = site.alignment, site.benign
    return {
        "width": site.width,
        "encoder": _encoder_json(site.encoder),
        "directions": [
            {
                "name": one.name,
                "weight": one.weight,
                "threshold": one.threshold,
                **rates_json(false_positive=one.false_positive, recall=one.recall),
            }
            for one in site.directions
        ],
        "alignment": None
        if alignment is None
        else {
            "kind": alignment.kind,
            "source": _encoder_json(alignment.source),
            "anchors": _anchors_json(alignment.anchors),
            "r2": alignment.r2,
            "null": alignment.null,
            "cosine": alignment.cosine,
        },
        "benign": None if benign is None else _anchors_json(benign),
    }


def _direction(entry: Field) -> Direction:
    fields = entry.record("name weight threshold", "false_positive recall")
    return Direction(
        name=require_category_name(fields["name"].text(longest=100), entry),
        weight=fields["weight"].single(0.0),
        threshold=fields["threshold"].optional(lambda threshold: threshold.number(0.0, 1.0)),
        false_positive=fields["false_positive"].optional(rate_of) if "false_positive" in fields else None,
        recall=fields["recall"].optional(rate_of) if "recall" in fields else None,
    )


def _encoder(entry: Field) -> Encoder:
    fields = entry.record("name fingerprint layer")
    return Encoder(
        name=fields["name"].text(longest=200),
        fingerprint=fields["fingerprint"].optional(_sha256),
        layer=fields["layer"].optional(lambda layer: layer.integer(0, 2**20)),
    )


def _alignment(entry: Field) -> Alignment:
    fields = entry.record("kind source anchors r2 null", "cosine")
    return Alignment(
        kind=fields["kind"].one_of(MAPS),
        source=_encoder(fields["source"]),
        anchors=_anchors(fields["anchors"]),
        r2=fields["r2"].number(-math.inf, 1.0),
        null=fields["null"].number(-math.inf, 1.0),
        cosine=fields["cosine"].optional(lambda it: it.number(-1.0, 1.0)) if "cosine" in fields else None,
    )


def _anchors(entry: Field) -> Anchors:
    fields = entry.record("sha256 count")
    return Anchors(_sha256(fields["sha256"]), fields["count"].integer(1, 2**31))


def _sha256(entry: Field) -> str:
    return entry.matching(SHA256, "a sha256 as 64 small hexadecimal digits")


def _encoder_json(encoder: Encoder) -> dict[str, object]:
    return {"name": encoder.name, "fingerprint": encoder.fingerprint, "layer": encoder.layer}


def _anchors_json(anchors: Anchors) -> dict[str, object]:
    return {"sha256": anchors.sha256, "count": anchors.count}
