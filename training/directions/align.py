"""Fits a map from a source encoder's states to a target's, on benign anchors and on nothing else.

Anchors are parted in three: most to fit on, some to choose by (the ridge, when the network stops), some to judge by.
Those that share a category (the same nouns, each with one quality) stay together in a part; the quality's own
direction, its mean less the mean of all such anchors, is then a benign direction whose native form is known on both
sides. How well the map carries directions it has never seen is measured on these. It is what the map is for: R² is
not, for a map fitted on many alike texts has a high one and carries nothing (ours; measured in benchmarks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...steering.directions import DirectionSet
from ...steering.errors import SteeringError
from ...steering.formats.directions import MAPS, Anchors, Encoder
from .anchors import Benign
from .maps import RIDGES, Network, Ridge, Standard, fit_network, mean_cosine, orthogonal, r_squared
from .sources import HiddenStates, Layer, Progress, token_means

FEWEST = 40
"""Anchors below which no map is fitted."""
FLOOR = 0.1
"""How far the held-out R² must be above that of shuffled pairs."""
NETWORK_ROWS = 512
"""Anchors at which a network's finite differences are taken."""
_SEAL = object()


@dataclass(frozen=True, eq=False)
class AnchorStates:
    """The token means of benign anchors at one layer of one encoder. Only `encode_anchors` makes them."""

    anchors: Benign
    encoder: Encoder
    means: Tensor  # (n, d)
    seal: object = field(repr=False)

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only encode_anchors makes AnchorStates, from benign anchors")

    def subset(self, numbers: Sequence[int]) -> AnchorStates:
        """Those of some of the anchors."""
        return AnchorStates(self.anchors.subset(numbers), self.encoder, self.means[list(numbers)], _SEAL)


class Parts(NamedTuple):
    """Numbers of anchors."""

    fit: Tensor
    choose: Tensor
    test: Tensor


@dataclass(frozen=True)
class Quality:
    """How good a map is on anchors it was not fitted on."""

    r2: float
    cosine: float
    null_r2: float
    """The same of a map fitted on shuffled pairs."""
    null_cosine: float
    contrast: float | None
    """The mean cosine of carried to native benign directions; None where no anchors share categories."""
    ridge: float | None = None
    """The λ that was chosen."""


@dataclass(frozen=True, eq=False)
class FittedMap:
    """A map between two encoders' states, with the evidence for it."""

    kind: str
    source: Encoder
    target: Encoder
    anchors: Anchors
    quality: Quality
    beta: float
    """median ‖h_t‖ / median ‖h_s‖ over centred anchors: how long a step of the source's is in the target."""
    standard_source: Standard
    standard_target: Standard
    transform: Tensor | Network
    """Between standardised states: a matrix (d_t, d_s) or a network."""
    around: Tensor
    """(m, d_s) standardised anchors, where a network's finite differences are taken."""

    def __call__(self, states: Tensor) -> Tensor:
        """Source states (n, d_s) → the target's (n, d_t), in float32."""
        y = _apply(self.transform, self.standard_source(states)).double()
        return (y * self.standard_target.scale + self.standard_target.centre).float()

    def step(self, v: Tensor) -> Tensor:
        """A difference of source states (d_s) → the target's (d_t): no mean, no bias, no clipping."""
        x = v.double() / self.standard_source.scale
        moved = _moved(self.transform, self.around, x)
        return (moved * self.standard_target.scale).float()


def encode_anchors(
    encoder: HiddenStates, layers: Sequence[Layer], anchors: Benign, progress: Progress | None = None
) -> list[AnchorStates]:
    """Reads benign anchors with an encoder, once for all ``layers``.

    Raises:
        SteeringError: as `token_means`.
    """
    means = token_means(encoder, anchors.texts, layers, progress)
    return [
        AnchorStates(anchors, Encoder(encoder.name, encoder.fingerprint(), layer), means[i], _SEAL)
        for i, layer in enumerate(layers)
    ]


def part(anchors: Benign, seed: int = 0, judged: float = 0.1) -> Parts:
    """Parts the anchors at random, ``judged`` of them to choose by and as many to judge by; twice that of the
    categories.
    """
    g = torch.Generator().manual_seed(seed)
    names = sorted({c for c in anchors.categories if c is not None})
    order = torch.randperm(len(names), generator=g).tolist()
    share = round(2 * judged * len(names)) if len(names) >= 5 else 0
    place = {names[n]: 1 if i < share else 2 if i < 2 * share else 0 for i, n in enumerate(order)}
    loose = torch.tensor(
        [i for i, c in enumerate(anchors.categories) if c is None or not share], dtype=torch.long
    )
    loose = loose[torch.randperm(len(loose), generator=g)]
    count = max(1, round(judged * len(loose)))
    sets: list[list[int]] = [
        loose[2 * count :].tolist(),
        loose[:count].tolist(),
        loose[count : 2 * count].tolist(),
    ]
    if share:
        for i, c in enumerate(anchors.categories):
            if c is not None:
                sets[place[c]].append(i)
    return Parts(*(torch.tensor(sorted(numbers), dtype=torch.long) for numbers in sets))


def fit_map(
    source: AnchorStates,
    target: AnchorStates,
    kind: str = "ridge",
    *,
    seed: int = 0,
    null: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> FittedMap:
    """Fits a map of one of MAPS and measures it, whatever the measure says; `align` refuses bad ones.

    ``null``: also fit on shuffled pairs. Deterministic by seed. ``progress`` hears of a network's epochs and may raise.

    Raises:
        SteeringError: the two sides are not of the same anchors, there are too few, or an encoder does not tell them
        apart.
    """
    require_kind(kind)
    if source.anchors.sha256 != target.anchors.sha256 or source.anchors.texts != target.anchors.texts:
        raise SteeringError(
            "anchors",
            expected="the same anchors on both sides",
            found=f"{len(source.anchors)} and {len(target.anchors)} that differ",
            remedy="Read one set of anchors with both encoders.",
        )
    if len(source.anchors) < FEWEST:
        raise SteeringError(
            "anchors",
            expected=f"at least {FEWEST}",
            found=f"{len(source.anchors)}",
            remedy="Use the broad anchors that come with this pack.",
        )
    parts = part(source.anchors, seed)
    standards = Standard.of(source.means[parts.fit]), Standard.of(target.means[parts.fit])
    x, y = standards[0](source.means), standards[1](target.means)
    transform, ridge = _fit(kind, x, y, parts, seed, progress)
    null_r2 = null_cosine = float("nan")
    if null:
        shuffled = y.clone()
        for numbers in parts:
            shuffled[numbers] = y[
                numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))]
            ]
        empty, _ = _fit(kind, x, shuffled, parts, seed, progress)
        null_r2, null_cosine = _judge(empty, x, y, parts.test)
    r2, cosine = _judge(transform, x, y, parts.test)
    around = x[parts.fit][:NETWORK_ROWS]
    contrast = _contrast(transform, around, x, y, source.anchors, parts.test)
    return FittedMap(
        kind=kind,
        source=source.encoder,
        target=target.encoder,
        anchors=Anchors(source.anchors.sha256, len(source.anchors)),
        quality=Quality(r2, cosine, null_r2, null_cosine, contrast, ridge),
        beta=_median_norm(target) / _median_norm(source),
        standard_source=standards[0],
        standard_target=standards[1],
        transform=transform,
        around=around if isinstance(transform, Network) else around[:0],
    )


def align(
    anchors: Benign,
    source: HiddenStates,
    source_layer: Layer,
    target: HiddenStates,
    target_layer: Layer,
    kind: str = "ridge",
    *,
    floor: float = FLOOR,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedMap:
    """Reads the anchors with both encoders, fits a map and refuses it where it is no better than chance.

    Raises:
        SteeringError: too few anchors, a text without tokens, a layer that is not there, or a map below the floor.
    """
    require_kind(kind)
    (x,) = encode_anchors(source, (source_layer,), anchors, progress)
    (y,) = encode_anchors(target, (target_layer,), anchors, progress)
    return require_quality(fit_map(x, y, kind, seed=seed, progress=progress), floor)


def require_source(directions: DirectionSet, source: HiddenStates) -> None:
    """Raises SteeringError unless directions live among an encoder's states, as far as that is known."""
    at = directions.about.encoder
    known = at.fingerprint in (None, source.fingerprint())
    if not known or at.layer not in source.layers or directions.width != source.width:
        raise SteeringError(
            directions.source,
            expected=f"directions of {source.name}, of width {source.width}, at one of its layers",
            found=f"directions of {at.name} at layer {at.layer}, of width {directions.width}",
            remedy="Connect the encoder that these directions were estimated in.",
        )


def require_quality(fitted: FittedMap, floor: float = FLOOR) -> FittedMap:
    """The map, if its held-out R² is at least ``floor`` above that of shuffled pairs, which count as 0 where worse.

    Raises:
        SteeringError: it is not, or shuffled pairs were not fitted; the message has the figures.
    """
    q = fitted.quality
    if isnan(q.null_r2) or not q.r2 - max(0.0, q.null_r2) >= floor:
        raise SteeringError(
            f"map from {fitted.source.name} to {fitted.target.name}",
            expected=f"a held-out R² at least {floor:g} above that of shuffled pairs",
            found=f"{q.r2:.3f}, and {q.null_r2:.3f} of shuffled pairs",
            remedy="Use more and broader benign anchors, another layer of the source, or another map.",
        )
    return fitted


def require_kind(kind: str) -> None:
    """Raises SteeringError unless it is one of MAPS."""
    if kind not in MAPS:
        raise SteeringError(
            "map", expected=f"one of {', '.join(MAPS)}", found=repr(kind), remedy="Choose one of these."
        )


def _fit(
    kind: str,
    x: Tensor,
    y: Tensor,
    parts: Parts,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Tensor | Network, float | None]:
    fit, choose = parts.fit, parts.choose
    if kind == "mlp":
        return fit_network(x[fit], y[fit], x[choose], y[choose], seed=seed, progress=progress), None
    if kind == "procrustes":
        few = len(fit) < 10 * max(x.shape[1], y.shape[1])
        return orthogonal(x[fit], y[fit], min(256, len(fit) // 4) if few else None), None
    solve = Ridge(x[fit], y[fit])
    ridge = max(RIDGES, key=lambda r: mean_cosine(_apply(solve(r), x[choose]), y[choose]))
    return solve(ridge), ridge


def _judge(transform: Tensor | Network, x: Tensor, y: Tensor, test: Tensor) -> tuple[float, float]:
    """R² and mean cosine on the part to judge by."""
    predicted = _apply(transform, x[test]).double()
    return r_squared(predicted, y[test]), mean_cosine(predicted, y[test])


def _contrast(
    transform: Tensor | Network, around: Tensor, x: Tensor, y: Tensor, anchors: Benign, numbers: Tensor
) -> float | None:
    """The mean cosine of carried to native directions of the categories that a part holds."""
    of: dict[str, list[int]] = {}
    for i in numbers.tolist():
        name = anchors.categories[i]
        if name is not None:
            of.setdefault(name, []).append(i)
    if len(of) < 2:
        return None
    everything = [i for rows in of.values() for i in rows]
    cosines: list[float] = []
    for rows in of.values():
        v, native = (side[rows].mean(0) - side[everything].mean(0) for side in (x, y))
        cosines.append(float(F.cosine_similarity(_moved(transform, around, v), native, dim=0)))
    return sum(cosines) / len(cosines)


def _apply(transform: Tensor | Network, x: Tensor) -> Tensor:
    return transform(x) if isinstance(transform, Network) else x @ transform.T


def _moved(transform: Tensor | Network, around: Tensor, v: Tensor) -> Tensor:
    """A step of standardised source states, as a step of the target's, in float64."""
    if isinstance(transform, Network):
        return transform.moved(around, v).double()
    return transform @ v


def _median_norm(states: AnchorStates) -> float:
    centred = states.means.double() - states.means.double().mean(0)
    found = float(centred.norm(dim=1).median())
    if not found > 0:
        raise SteeringError(
            f"anchors in {states.encoder.name}",
            expected="states that differ",
            found="the same of most texts",
            remedy="The encoder does not tell these texts apart: choose another layer, or other anchors.",
        )
    return found
