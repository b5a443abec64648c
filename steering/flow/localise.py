"""From scores to a region: threshold, 3 × 3 closing, holes filled, components chosen, a ring around them.

After UVR (arXiv 2606.06875). Of the components, those smaller than a share of the picture are dropped; of the rest the
heaviest are kept, until they hold a share of the whole mass (text-to-image) or up to a number (editing). The mass of a
component is Σ max(s − τ, 0) over its patches (ours, where the paper sums s: it must not depend on where the score's
zero is). Equal masses are kept together, lest the order of rows decide. What is marked may spread to patches of a lower
score beside it (ours: thresholding with hysteresis), as thresholds that spare all benign pictures mark parts of things.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SteeringError
from .morphology import closed, components, dilated, filled
from .region import Region

WHOLE = 0.95
"""Of the picture: a core of this share or more leaves nothing to tell it from."""


@dataclass(frozen=True)
class Selection:
    """Which components make the core, and how wide the ring is.

    Raises:
        SteeringError: a figure out of its range.
    """

    mass_ratio: float | None = 0.3
    """The heaviest components are kept until they hold this share of the mass; None for no such end."""
    top: int | None = None
    """At most so many components; None for no such end."""
    smallest: float = 0.002
    """Components of a smaller share of the picture are dropped; any other has at least one patch."""
    ring: int = 1
    """Patches."""
    spread: float = 1.0
    """Share of a positive threshold from which on patches beside marked ones are marked as well; 1: none are."""

    def __post_init__(self) -> None:
        ratio, top = self.mass_ratio, self.top
        sound = (
            (ratio is None or 0 < ratio <= 1)
            and (top is None or top >= 1)
            and 0 <= self.smallest < 1
            and self.ring >= 0
            and 0 <= self.spread <= 1
        )
        if not sound:
            raise SteeringError(
                "selection of components",
                expected="a mass ratio above 0 and at most 1, at least 1 component, a smallest share from 0 to below "
                "1, a ring of at least 0 patches, a spread from 0 to 1",
                found=f"mass ratio {ratio}, top {top}, smallest {self.smallest}, ring {self.ring}, "
                f"spread {self.spread}",
                remedy="Choose figures within these ranges.",
            )


GENERATION = Selection(mass_ratio=0.3)
EDITING = Selection(mass_ratio=None, top=3)
"""The paper's, for its two tasks."""


def localise(scores: Tensor, threshold: float, selection: Selection = GENERATION) -> Region:
    """The region of one picture.

    Args:
        scores: (H, W), finite, on any device; morphology is done on the CPU, on some thousand patches.
        threshold: τ; a patch is marked where s >= τ.
    """
    scores = scores.detach().to("cpu", torch.float32)
    marked = scores >= threshold
    if not marked.any():
        return around(marked, 0)
    if selection.spread < 1 and threshold > 0:
        labels = components(scores >= selection.spread * threshold)
        marked = torch.isin(labels, labels[marked])
    whole = filled(closed(marked))
    excess = (scores - threshold).relu()
    return around(_chosen(whole, excess, selection), selection.ring)


def around(core: Tensor, ring: int) -> Region:
    """A core (H, W) bool with a ring of so many patches."""
    return Region(core, dilated(core, ring) & ~core)


def marks_everything(region: Region) -> bool:
    """Whether the core is (almost) the whole picture."""
    return float(region.core.float().mean()) >= WHOLE


def _chosen(mask: Tensor, excess: Tensor, selection: Selection) -> Tensor:
    """Those components of a mask (H, W) that the selection keeps."""
    labels = components(mask)
    names, which, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    masses = torch.zeros(len(names)).index_add_(0, which.flatten(), excess.flatten())
    allowed = (names > 0) & (sizes >= selection.smallest * mask.numel())
    ranked = sorted(allowed.nonzero()[:, 0].tolist(), key=lambda at: -float(masses[at]))
    total = float(masses[allowed].sum())
    kept: list[int] = []
    held = 0.0
    for at in ranked:
        tied = bool(kept) and float(masses[at]) == float(masses[kept[-1]])
        if not tied and selection.top is not None and len(kept) >= selection.top:
            break
        if not tied and selection.mass_ratio is not None and kept and held >= selection.mass_ratio * total:
            break
        kept.append(at)
        held += float(masses[at])
    return torch.isin(labels, names[kept])
