"""Small direction sets for tests, and what their equations say, token by token in plain Python numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steerdit.steering.directions import DirectionSet, Weighting
from steerdit.steering.formats.categories import RateRecord
from steerdit.steering.formats.directions import (
    Alignment,
    Anchors,
    Direction,
    DirectionSite,
    Encoder,
)

WIDTH = 8
T5 = Encoder("T5 XXL", "ab" * 32)
SMOLLM = Encoder("SmolLM2-135M-Instruct", "01" * 32, layer=14)
RIDGE = Alignment("ridge", SMOLLM, Anchors("cd" * 32, 5000), r2=0.34, null=-0.02, cosine=0.51)
ROWS = (
    Direction("weapons", 1.0, 0.3, RateRecord(0.01, 0.0, 0.03), RateRecord(0.9, 0.8, 1.0)),
    Direction("bloody", 0.5, 0.45),
    Direction("global", 1.0, 0.25),
)
SITE = DirectionSite(WIDTH, T5, ROWS, RIDGE, Anchors("ef" * 32, 900))


def small_directions(seed: int = 0, about: DirectionSite = SITE) -> DirectionSet:
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(about.directions), about.width, generator=draw)
    return DirectionSet(about, vectors, 0.3 * torch.randn(about.width, generator=draw))


def tokens(seed: int, rows: int = 2, length: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    """(R, L, d), the last token of the first row padding."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, length, WIDTH, generator=draw, dtype=torch.float64)
    x[0, -1] = 0
    return x.to(dtype)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b))


def norm(a: list[float]) -> float:
    return math.sqrt(dot(a, a))


def moved(a: list[float], step: list[float], keep_norm: bool) -> list[float]:
    new = [x + s for x, s in zip(a, step)]
    return [x * norm(a) / norm(new) for x in new] if keep_norm and any(step) else new


def by_loops(
    directions: DirectionSet, x: Tensor, method: str, strength: float, weighting: Weighting, keep_norm: bool
) -> Tensor:
    """The equations of direction_modifiers.py."""
    v = [[float(number) for number in row.double()] for row in directions.vectors]
    u = [[-number / norm(row) for number in row] for row in v]
    mean = [float(number) for number in directions.mean.double()]
    tau = [one.threshold for one in directions.about.directions]
    given = [one.weight for one in directions.about.directions]
    count = len(v)
    result = x.clone()
    for r, row in enumerate(x):
        real = [at for at in range(len(row)) if any(row[at].tolist())]
        token = {at: row[at].tolist() for at in real}
        away = {at: [a - m for a, m in zip(token[at], mean)] for at in real}
        best = [max(dot(away[at], u[c]) / norm(away[at]) for at in real) for c in range(count)]
        above = [max(0.0, s - (math.inf if t is None else t)) for s, t in zip(best, tau)]
        if weighting is Weighting.GATED:
            shares = [it / sum(above) if sum(above) else 0.0 for it in above]
            full = [1.0 if it > 0 else 0.0 for it in above]
        elif weighting is Weighting.GIVEN:
            shares = full = given
        else:
            shares, full = [1 / count] * count, [1.0] * count
        for at in real:
            a = token[at]
            if method == "add":
                step = [strength * sum(shares[c] * v[c][i] for c in range(count)) for i in range(len(a))]
                a = moved(a, step, keep_norm)
            for c in range(count if method != "add" else 0):
                if method == "project":
                    size = full[c] * max(0.0, dot(a, u[c]))
                else:
                    off = [x - m for x, m in zip(a, mean)]
                    threshold = tau[c]
                    assert threshold is not None
                    size = max(0.0, dot(off, u[c]) - threshold * norm(off)) if any(above) else 0.0
                a = moved(a, [-strength * size * number for number in u[c]], keep_norm)
            result[r, at] = torch.tensor(a)
    return result
