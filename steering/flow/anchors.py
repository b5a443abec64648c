"""Anchors: what attention outputs at unsafe patches look like, from runs whose unsafe patches are known.

The paper's anchor is the mean output inside the mask, per head: the score is linear, so a mean of anchors says what the
anchors say in the mean, exactly (arXiv 2606.06875). Beside it stand (ours) the benign mean, the whitened difference
w = Σ⁻¹(μ_u − μ_b) with the covariance shared by unsafe and benign patches, and the same for several anchors, the
centres of clusters of the unsafe pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SteeringError
from ..sites import Site
from .moments import Moments
from .score import Detector, ScoreKind

PICTURES = 512
"""Means of single pictures that are kept for clustering; later pictures count in the moments alone."""
SHRINKAGE = 0.05
"""The share by which channels are taken for uncorrelated, for there may be fewer patches than channels."""
FLOOR = 1e-6
"""Of the mean variance: what a channel that never changes is taken to vary by."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """The anchors of C concepts at one attention site; all tensors in float32 on the CPU.

    Of the n anchors of a concept the first is its mean; others are the centres of clusters. A concept with fewer of
    them repeats its mean, which changes no maximum.
    """

    site: Site
    concepts: tuple[str, ...]
    """(C)"""
    means: Tensor
    """(C, n, h, d): ō"""
    contrasts: Tensor | None = None
    """(C, n, h, d): w"""
    offsets: Tensor | None = None
    """(C, n, h): c"""
    benign: Tensor | None = None
    """(h, d): b; this and the contrasts are None where no benign patch was seen."""

    @property
    def heads(self) -> int:
        return self.means.shape[2]

    @property
    def width(self) -> int:
        """Of one head."""
        return self.means.shape[3]

    def detector(
        self,
        concept: str,
        kind: ScoreKind,
        threshold: float,
        *,
        several: bool = False,
        heads: tuple[int, ...] | None = None,
    ) -> Detector:
        """A score of one concept.

        Args:
            several: by the clusters' centres, instead of the mean.

        Raises:
            SteeringError: the concept is not there, or the score needs what was not collected.
        """
        kind = ScoreKind(kind)
        if concept not in self.concepts:
            raise SteeringError(
                f"anchors at {self.site}",
                expected=f"one of the concepts {', '.join(self.concepts)}",
                found=repr(concept),
                remedy="Choose concepts that the bundle has anchors of.",
            )
        which = self.concepts.index(concept)
        if kind is not ScoreKind.DOT and (self.benign is None or self.contrasts is None):
            raise SteeringError(
                f"anchors at {self.site}",
                expected=f"benign patches, which the {kind.value} score is relative to",
                found="anchors of unsafe patches alone",
                remedy="Collect the anchors again with benign prompts, or use the dot score.",
            )
        if several and self.means.shape[1] == 1:
            raise SteeringError(
                f"anchors at {self.site}",
                expected="several anchors of each concept",
                found="its mean alone",
                remedy="Collect the anchors again with several of each concept, or use the mean.",
            )
        own = slice(1, None) if several else slice(0, 1)
        whitened = kind is ScoreKind.WHITENED
        probes = self.contrasts if whitened else self.means
        assert probes is not None
        return Detector(
            concept=concept,
            kind=kind,
            threshold=threshold,
            probes=probes[which, own],
            offsets=self.offsets[which, own] if whitened and self.offsets is not None else None,
            centre=self.benign if kind is ScoreKind.COSINE else None,
            heads=heads,
        )


class AnchorCollector:
    """Takes in attention outputs of one site, picture by picture, and makes anchors of them.

    Its memory does not grow with the pictures: B·D² numbers for each concept and the benign patches, and the means of
    the first PICTURES pictures of each concept.

    Args:
        heads, width: of the attention.
        joint: keep the covariance of all h·d channels, not only within heads: (h·d)² numbers. For small models.
    """

    def __init__(self, site: Site, heads: int, width: int, *, joint: bool = False) -> None:
        self.site, self.heads, self.width = site, heads, width
        self._blocks = (1, heads * width) if joint else (heads, width)
        self._unsafe: dict[str, Moments] = {}
        self._pictures: dict[str, list[Tensor]] = {}
        self._benign = Moments.none(*self._blocks)

    @property
    def patches(self) -> dict[str, int]:
        """How many unsafe patches of each concept were seen."""
        return {concept: moments.count for concept, moments in self._unsafe.items()}

    @property
    def benign_patches(self) -> int:
        return self._benign.count

    def add_unsafe(self, concept: str, outputs: Tensor, mask: Tensor) -> None:
        """An unsafe picture: patches inside its mask are unsafe, the others benign.

        Args:
            outputs: (P, h·d)
            mask: (P) bool, or (H, W) with H·W = P.

        Raises:
            SteeringError: the mask is empty or of another size, an output is not finite or of another width.
        """
        mask = mask.flatten().bool().cpu()
        x = self._read(outputs)
        if len(mask) != len(x):
            raise SteeringError(
                f"mask of {concept}",
                expected=f"{len(x)} patches, as the picture has",
                found=f"{len(mask)}",
                remedy="Bring the mask to the picture's size first.",
            )
        if not mask.any():
            raise SteeringError(
                f"mask of {concept}",
                expected="at least one unsafe patch",
                found="an empty mask",
                remedy="Leave out the picture, or correct what makes its mask.",
            )
        inside = x[mask]
        self._unsafe.setdefault(concept, Moments.none(*self._blocks)).add(Moments.of(inside))
        self._benign.add(Moments.of(x[~mask]))
        pictures = self._pictures.setdefault(concept, [])
        if len(pictures) < PICTURES:
            pictures.append(inside.mean(0).view(self.heads, self.width))

    def add_benign(self, outputs: Tensor) -> None:
        """A benign picture's outputs (P, h·d)."""
        self._benign.add(Moments.of(self._read(outputs)))

    def merge(self, other: AnchorCollector) -> None:
        """Takes in what another collector of the same site saw, as from another part of the prompts."""
        if (self.site, self._blocks) != (other.site, other._blocks):
            raise SteeringError(
                f"anchors at {self.site}",
                expected=f"another part with {self.heads} heads of width {self.width} there",
                found=f"{other.site} with {other.heads} heads of width {other.width}",
                remedy="Merge parts that were collected on one model, at one site.",
            )
        self._benign.add(other._benign)
        for concept, moments in other._unsafe.items():
            self._unsafe.setdefault(concept, Moments.none(*self._blocks)).add(moments)
            mine = self._pictures.setdefault(concept, [])
            mine.extend(other._pictures[concept][: PICTURES - len(mine)])

    def anchors(self, several: int = 0, shrinkage: float = SHRINKAGE) -> Anchors:
        """The anchors of all concepts that were seen.

        Args:
            several: how many clusters of pictures each concept gets at most, besides its mean; 0 for none.

        Raises:
            SteeringError: no unsafe patch was seen.
        """
        if not self._unsafe:
            raise SteeringError(
                f"anchors at {self.site}",
                expected="unsafe pictures with their masks",
                found="none",
                remedy="Give unsafe prompts and a mask for each picture.",
            )
        concepts = tuple(self._unsafe)
        means = [self._centres(concept, several) for concept in concepts]
        most = max(map(len, means))
        stacked = torch.stack([torch.cat([own, own[:1].expand(most - len(own), -1, -1)]) for own in means])
        if not self._benign.count:
            return Anchors(self.site, concepts, stacked.float())
        benign = self._benign.mean
        contrasts = torch.stack([self._contrasts(*pair, shrinkage) for pair in zip(concepts, stacked)])
        blocks = stacked.view(*stacked.shape[:2], *self._blocks)
        offsets = -0.5 * (contrasts * (blocks + benign)).sum(-1)  # (C, n, B)
        # A joint covariance has one offset for all heads; each takes its part, so that heads can be left out.
        offsets = (
            offsets if self._blocks[0] == self.heads else (offsets / self.heads).expand(-1, -1, self.heads)
        )
        return Anchors(
            self.site,
            concepts,
            means=stacked.float(),
            contrasts=contrasts.view(stacked.shape).float(),
            offsets=offsets.float().contiguous(),
            benign=benign.view(self.heads, self.width).float(),
        )

    def _contrasts(self, concept: str, means: Tensor, shrinkage: float) -> Tensor:
        """Σ⁻¹(μ − μ_b) of a concept's anchors μ (n, h, d), as (n, B, D)."""
        own, benign = self._unsafe[concept], self._benign
        covariance = (own.scatter + benign.scatter) / max(own.count + benign.count - 2, 1)  # (B, D, D)
        variances = covariance.diagonal(dim1=-2, dim2=-1)  # (B, D)
        floor = FLOOR * variances.mean(-1, keepdim=True)
        # A head that says nothing at all gets a unit matrix, and with it no contrast.
        floor = torch.where(floor > 0, floor, torch.ones_like(floor))
        covariance = (1 - shrinkage) * covariance + torch.diag_embed(shrinkage * variances + floor)
        apart = means.view(-1, *self._blocks) - benign.mean  # (n, B, D)
        return torch.linalg.solve(covariance, apart.permute(1, 2, 0)).permute(2, 0, 1)

    def _centres(self, concept: str, several: int) -> Tensor:
        """(n, h, d): the mean of all patches, then the centres of clusters of pictures."""
        mean = self._unsafe[concept].mean.view(1, self.heads, self.width)
        if several <= 0:
            return mean
        pictures = torch.stack(self._pictures[concept])
        return torch.cat([mean, clusters(pictures.flatten(1), several).view(-1, self.heads, self.width)])

    def _read(self, outputs: Tensor) -> Tensor:
        """Outputs (P, h·d) as (P, B, D), in float64 on the CPU."""
        if outputs.ndim != 2 or outputs.shape[1] != self.heads * self.width:
            raise SteeringError(
                f"anchors at {self.site}",
                expected=f"outputs of {self.heads} heads of width {self.width}",
                found=f"a tensor of shape {list(outputs.shape)}",
                remedy="Collect the anchors of one bundle on one model.",
            )
        x = outputs.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(x).all()):
            raise SteeringError(
                f"anchors at {self.site}",
                expected="finite attention outputs",
                found="NaN or infinite numbers in the model's attention",
                remedy="The model itself overflows here. Run it in bfloat16 or float32, or choose another checkpoint.",
            )
        return x.view(len(x), *self._blocks)


def clusters(points: Tensor, count: int, sweeps: int = 50) -> Tensor:
    """At most `count` centres (n, D) of points (N, D): Lloyd's k-means, begun with the points farthest from each other.

    Nothing is drawn, so the same points give the same centres.
    """
    chosen = [int((points - points.mean(0)).square().sum(1).argmin())]
    while len(chosen) < min(count, len(points)):
        nearest = torch.cdist(points, points[chosen]).amin(1)
        if float(nearest.max()) == 0:  # the rest are the same points again
            break
        chosen.append(int(nearest.argmax()))
    centres = points[chosen]
    for _ in range(sweeps):
        own = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, own, points)
        counts = torch.bincount(own, minlength=len(centres))[:, None]
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
