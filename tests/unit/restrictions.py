"""RestrictFlow for tests: two heads, a picture of 4 × 5 patches, and visits in which chosen patches look unsafe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steerdit.steering.flow.groups import Flow, Weights, groups_of
from steerdit.steering.flow.layout import FlowLayout
from steerdit.steering.flow.localise import around
from steerdit.steering.flow.modifier import RestrictFlow
from steerdit.steering.flow.noise import Noise
from steerdit.steering.flow.score import Detector, ScoreKind
from steerdit.steering.sites import Site

from . import flows

HEADS, WIDTH, SIZE = 2, 4, (4, 5)
LAYOUT = flows.layout(3, SIZE)
LATER = Site.parse("single.2.attention")
QUIET = Noise(0.0)
MARKED = {6, 7, 11}
"""Patches that look unsafe."""


def detector(
    threshold: float = 0.5, concept: str = "blade", heads: int = HEADS, width: int = WIDTH
) -> Detector:
    """Scores a patch by its attention output's first number."""
    probe = torch.zeros(1, heads, width)
    probe[0, 0, 0] = 1.0
    return Detector(concept, ScoreKind.WHITENED, threshold, probe, torch.zeros(1, heads))


def visit(marks: list[set[int]], where: FlowLayout = LAYOUT, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of pictures whose marked patches attend to marked ones alone, and so have 1 as their output's first."""
    q, k, v = flows.qkv(seed, len(marks), HEADS, where.tokens, WIDTH)
    q[..., -1] = k[..., -1] = 0.0
    v[..., 0] = 0.0
    for row, marked in enumerate(marks):
        for patch in marked:
            at = where.image.start + patch
            q[row, 0, at] = k[row, 0, at] = 0.0
            q[row, 0, at, -1] = k[row, 0, at, -1] = 90.0
            v[row, 0, at, 0] = 1.0
    return q, k, v


def restriction(**changes: Any) -> RestrictFlow:
    """It localises at flows.SITE, and mixes in no noise."""
    return RestrictFlow(**{"site": flows.SITE, "detectors": (detector(),), "noise": QUIET, **changes})


class Counting:
    """`attend` that remembers what it gave."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        self.given.append(flows.attend(q, k, v, mask))
        return self.given[-1]


def expected(qkv: tuple[Tensor, Tensor, Tensor], cores: list[Tensor], **more: Any) -> Tensor:
    """Restricted attention over these cores, with a ring of one patch, by the whole matrix in float64."""
    groups = [groups_of(LAYOUT, around(core, 1), Weights(), Flow.CONTENT, LAYOUT.tokens) for core in cores]
    return flows.dense(*qkv, flows.factors_of(groups, LAYOUT.tokens), **more)


def core_of(marked: set[int]) -> Tensor:
    """(H, W) bool: these patches."""
    core = torch.zeros(SIZE, dtype=torch.bool).flatten()
    core[list(marked)] = True
    return core.view(SIZE)


def masked(masks: Tensor, **changes: Any) -> RestrictFlow:
    """Given masks in place of detectors, and no noise."""
    return RestrictFlow(masks=masks, noise=QUIET, **changes)
