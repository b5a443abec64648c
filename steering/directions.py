"""Directions: the step from unsafe to safe of each risk category, and how strongly tokens point against it.

With v_c the direction of category c, u_c = −v_c / ‖v_c‖ its unit vector towards the unsafe, and μ the mean of benign
tokens:

    s_c(h) = cos(h − μ, u_c)                  score of one token
    s_c    = max over tokens of s_c(h)        score of a prompt (or of a picture, at a site of image tokens)

A category's gate is open where s_c > τ_c, a high quantile (99 %) of its score on benign prompts. Directions and their
transport are arXiv 2606.05290's; score and gate are ours.

A token that is zero throughout is padding: it has no score, and nothing acts on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor

from .errors import SteeringError
from .formats.bundle import Bundle
from .formats.directions import GLOBAL, DirectionSite
from .sites import Site, select_categories


class Weighting(str, Enum):
    """How much each of several directions acts."""

    GATED = "gated"
    """Those whose gate is open: when added, w_c = ReLU(s_c − τ_c) over the sum of these; when projected out, 1."""
    GIVEN = "given"
    """The weights of the set."""
    UNIFORM = "uniform"
    """All alike: when added, 1/C of C categories each; when projected out, 1."""


def chosen_names(expression: str, sites: Iterable[DirectionSite]) -> tuple[str, ...]:
    """The directions that the expression names: `global`, or categories (see selection.py) at any of the sites.

    `all` are all categories, without the global direction, which stands for all of them; unless it is alone.

    Raises:
        SteeringError: a term names none of the categories.
    """
    names = tuple(dict.fromkeys(name for site in sites for name in site.names))
    if expression.strip().lower() == GLOBAL and GLOBAL in names:
        return (GLOBAL,)
    return select_categories(expression, tuple(name for name in names if name != GLOBAL) or names)


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Directions of risk categories at one place: a layer of an encoder, or a site of a generator."""

    about: DirectionSite
    """Their names, weights and thresholds, whose states they live among, and how they came there."""
    vectors: Tensor
    """(C, d) float32: v_c, safe minus unsafe, in the units of the activations."""
    mean: Tensor
    """(d) float32: μ, of benign tokens."""
    source: str = "directions"
    """What messages call them, such as the file and site."""

    def __post_init__(self) -> None:
        count, width = len(self.about.directions), self.about.width
        shapes = (tuple(self.vectors.shape), tuple(self.mean.shape))
        if shapes != ((count, width), (width,)):
            self._refuse(f"{count} directions ({count}, {width}) and their mean ({width},)", f"{shapes}")
        if not bool(torch.isfinite(self.vectors).all()) or not bool(torch.isfinite(self.mean).all()):
            self._refuse("finite numbers", "NaN or infinite ones")
        empty = [name for name, vector in zip(self.names, self.vectors) if not bool(vector.any())]
        if empty:
            self._refuse("directions", f"nothing but zeros for {', '.join(empty)}")

    @classmethod
    def of_bundle(cls, bundle: Bundle, site: Site) -> DirectionSet:
        """The directions that a bundle holds at a site.

        Raises:
            BundleError: it holds none there, or not the numbers that were written.
        """
        vectors, mean = bundle.read_directions(site)
        return cls(bundle.directions[site], vectors, mean, f"{bundle.path}: {site}")

    @property
    def width(self) -> int:
        """d"""
        return self.about.width

    @property
    def names(self) -> tuple[str, ...]:
        """(C), the global direction among them."""
        return self.about.names

    @cached_property
    def unsafe(self) -> Tensor:
        """(C, d) float32: u_c, unit vectors towards the unsafe."""
        vectors = self.vectors.double()
        return (-vectors / vectors.norm(dim=-1, keepdim=True)).float()

    @cached_property
    def weights(self) -> Tensor:
        """(C) as given."""
        return torch.tensor([direction.weight for direction in self.about.directions])

    @cached_property
    def thresholds(self) -> Tensor:
        """(C) τ_c; infinite where none is calibrated."""
        found = [direction.threshold for direction in self.about.directions]
        return torch.tensor([torch.inf if threshold is None else threshold for threshold in found])

    def chosen(self, expression: str) -> DirectionSet:
        """The directions that the expression names; see `chosen_names`."""
        return self.only(chosen_names(expression, [self.about]))

    def only(self, names: Sequence[str]) -> DirectionSet:
        """The directions of these names, in the set's own order."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        about = replace(self.about, directions=tuple(self.about.directions[row] for row in rows))
        return replace(self, about=about, vectors=self.vectors[rows])

    def require_thresholds(self, purpose: str) -> None:
        """A SteeringError unless each direction has a calibrated threshold."""
        missing = [one.name for one in self.about.directions if one.threshold is None]
        if missing:
            self._refuse(
                f"a calibrated threshold of each category, as {purpose} needs",
                f"none for {', '.join(missing)}",
                "Calibrate the directions on benign prompts, or weigh them by `given` or `uniform`.",
            )

    def scores(self, x: Tensor) -> Tensor:
        """s_c(h), (..., C), of tokens x (..., d); −1 for padding."""
        away = x - self.mean.to(x)
        length = away.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        cosines = (away / length) @ self.unsafe.to(x).T
        return cosines.where((x != 0).any(-1, keepdim=True), -torch.ones_like(cosines))

    def added(self, scores: Tensor, weighting: Weighting) -> Tensor:
        """w_c, (R, C), by which directions are added to rows of tokens with these scores (R, L, C)."""
        if weighting is Weighting.GATED:
            above = (scores.amax(1) - self.thresholds.to(scores)).relu()
            return above / above.sum(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
        shares = torch.full_like(self.weights, 1 / max(len(self.names), 1))
        return self._alike(self.weights if weighting is Weighting.GIVEN else shares, scores)

    def projected(self, scores: Tensor, weighting: Weighting) -> Tensor:
        """w_c, (R, C), by which directions are projected out of rows of tokens with these scores (R, L, C)."""
        if weighting is Weighting.GATED:
            return self.open(scores).to(scores)
        ones = torch.ones_like(self.weights)
        return self._alike(self.weights if weighting is Weighting.GIVEN else ones, scores)

    def open(self, scores: Tensor) -> Tensor:
        """Which gates are open, (R, C) bool, in rows of tokens with these scores (R, L, C)."""
        return scores.amax(1) > self.thresholds.to(scores)

    def _alike(self, weights: Tensor, scores: Tensor) -> Tensor:
        return weights.to(scores).expand(scores.shape[0], -1)

    def _refuse(self, expected: str, found: str, remedy: str = "Make the directions anew.") -> None:
        raise SteeringError(self.source, expected=expected, found=found, remedy=remedy)
