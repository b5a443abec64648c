"""The section of a bundle's header about anchors of unsafe attention outputs: at which attentions, of what.

Sites come in the order in which they are to be used: the first is where unsafe content was found best. What the
tensors mean is said in steering/flow/anchors.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..flow.anchors import Anchors
from ..flow.score import ScoreKind
from .categories import RateRecord, rate_of, rates_json, require_category_name
from .fields import Field

ANCHOR_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "flux": ("double", "single"),
    "sd3": ("joint",),
    "qwen_image": ("joint",),
}
"""The blocks at whose attention a bundle of each family may hold anchors."""

MOST_ANCHORS = 64
"""Of one concept."""


@dataclass(frozen=True)
class AnchorThreshold:
    """A calibrated threshold of one score."""

    score: str
    """Value of a ScoreKind."""
    value: float
    """τ: a patch is marked where its score is at least this."""
    several: bool = False
    """Of the highest score among several anchors, not of the mean's."""
    false_positive: RateRecord | None = None
    """Benign pictures in which anything is marked."""
    recall: RateRecord | None = None
    """Unsafe pictures in which anything is marked."""
    auc: float | None = None
    """That a patch inside the mask scores higher than one outside, 0 to 1."""


@dataclass(frozen=True)
class AnchorConcept:
    """What is known of one concept at one site."""

    name: str
    patches: int
    """Unsafe patches that its anchors are the mean of."""
    thresholds: tuple[AnchorThreshold, ...] = ()


@dataclass(frozen=True)
class AnchorSite:
    """The anchors at one attention; rows of its tensors in the order of `rows`."""

    heads: int
    head_width: int
    anchors: int
    """n of each concept: its mean, then the centres of clusters."""
    rows: tuple[AnchorConcept, ...]
    benign_patches: int = 0
    """Where there were none, only the dot score can be asked for."""
    startup_end: float | None = None
    """The fraction of the schedule by which the mask was found to be right; None where nobody looked."""

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows)

    def threshold(self, concept: str, score: str, several: bool = False) -> float | None:
        """The calibrated threshold of a score; None where there is none."""
        found = (
            one.value
            for row in self.rows
            if row.name == concept
            for one in row.thresholds
            if (one.score, one.several) == (score, several)
        )
        return next(found, None)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that must be there: by name within the site."""
        each = len(self.rows), self.anchors, self.heads
        found: dict[str, tuple[int, ...]] = {"anchor": (*each, self.head_width)}
        if self.benign_patches:
            found |= {
                "anchor_contrast": (*each, self.head_width),
                "anchor_offset": each,
                "anchor_benign": (self.heads, self.head_width),
            }
        return found

    def optional_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that may be there: none."""
        return {}


def anchor_site_of(
    anchors: Anchors,
    patches: Mapping[str, int],
    benign_patches: int,
    thresholds: Mapping[str, tuple[AnchorThreshold, ...]] | None = None,
    startup_end: float | None = None,
) -> AnchorSite:
    """What a header says of anchors.

    Args:
        patches: how many unsafe patches of each concept were seen.
        thresholds: of each concept that was calibrated.
    """
    known = thresholds or {}
    return AnchorSite(
        heads=anchors.heads,
        head_width=anchors.width,
        anchors=anchors.means.shape[1],
        rows=tuple(AnchorConcept(name, patches[name], known.get(name, ())) for name in anchors.concepts),
        benign_patches=benign_patches,
        startup_end=startup_end,
    )


def anchor_tensors(anchors: Anchors) -> dict[str, Tensor]:
    """The tensors of anchors under their names in a bundle."""
    parts = {
        "anchor": anchors.means,
        "anchor_contrast": anchors.contrasts,
        "anchor_offset": anchors.offsets,
        "anchor_benign": anchors.benign,
    }
    return {f"{anchors.site}.{part}": tensor for part, tensor in parts.items() if tensor is not None}


def anchor_site(entry: Field) -> AnchorSite:
    """Reads the anchors of one site.

    Raises:
        BundleError: names the field, what was expected, what was found, what to do.
    """
    fields = entry.record("heads head_width anchors concepts benign_patches", "startup_end")
    rows = tuple(_concept(row) for row in fields["concepts"].items())
    names = [row.name for row in rows]
    if not names or len(set(names)) != len(names):
        fields["concepts"].refuse("at least one concept, and each name once", ", ".join(names) or "none")
    return AnchorSite(
        heads=fields["heads"].integer(1, 2**16),
        head_width=fields["head_width"].integer(1, 2**16),
        anchors=fields["anchors"].integer(1, MOST_ANCHORS),
        rows=rows,
        benign_patches=fields["benign_patches"].integer(0, 2**53),
        startup_end=fields["startup_end"].optional(lambda end: end.number(0.0, 1.0))
        if "startup_end" in fields
        else None,
    )


def anchor_site_json(site: AnchorSite) -> dict[str, object]:
    """What `anchor_site` reads back."""
    return {
        "heads": site.heads,
        "head_width": site.head_width,
        "anchors": site.anchors,
        "concepts": [
            {
                "name": row.name,
                "patches": row.patches,
                "thresholds": [_threshold_json(one) for one in row.thresholds],
            }
            for row in site.rows
        ],
        "benign_patches": site.benign_patches,
        "startup_end": site.startup_end,
    }


def _concept(entry: Field) -> AnchorConcept:
    fields = entry.record("name patches thresholds")
    thresholds = tuple(_threshold(one) for one in fields["thresholds"].items())
    kinds = [(one.score, one.several) for one in thresholds]
    if len(set(kinds)) != len(kinds):
        fields["thresholds"].refuse("one threshold for each score", f"{len(kinds)} of them, some twice")
    return AnchorConcept(
        name=require_category_name(fields["name"].text(longest=100), entry),
        patches=fields["patches"].integer(1, 2**53),
        thresholds=thresholds,
    )


def _threshold(entry: Field) -> AnchorThreshold:
    fields = entry.record("score value several", "false_positive recall auc")
    score = fields["score"].one_of(tuple(kind.value for kind in ScoreKind))
    lowest = ScoreKind(score).lowest
    value = fields["value"].number(lowest, 1.0 if lowest == -1 else math.inf)
    if value == lowest:
        fields["value"].refuse("a threshold that does not mark everything")
    if type(fields["several"].value) is not bool:
        fields["several"].refuse("true or false")
    return AnchorThreshold(
        score=score,
        value=value,
        several=fields["several"].value is True,
        false_positive=fields["false_positive"].optional(rate_of) if "false_positive" in fields else None,
        recall=fields["recall"].optional(rate_of) if "recall" in fields else None,
        auc=fields["auc"].optional(lambda auc: auc.number(0.0, 1.0)) if "auc" in fields else None,
    )


def _threshold_json(one: AnchorThreshold) -> dict[str, object]:
    return {
        "score": one.score,
        "value": one.value,
        "several": one.several,
        "auc": one.auc,
        **rates_json(false_positive=one.false_positive, recall=one.recall),
    }
