"""What fired: one record per visit of a site, and the log of a sampling run that keeps what people ask about.

The log is bounded. It keeps, per picture, site, noise level and category, one line; per picture and site, the
highest score of each token; per visit at which a category showed, how often each latent fired. It never keeps codes.

Scores of different sites have different units, so they are compared by severity, s / (s + τ) with τ the image
gate's threshold: 0 where nothing fires, 0.5 at the threshold, never more than 1. Whether a score is over its
threshold is kept beside it, as the gate sees it: one rounding step above τ, severity is still 0.5.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .gates import Reading
from .sites import Site

LATENTS_SHOWN = 5
NAMED_FROM = 0.1
"""The severity from which a line names latents: counting them at every visit would cost as much as the gates do."""


class FiringRecord(NamedTuple):
    """One visit of one site: R rows of L tokens, C categories, S latents."""

    site: Site
    sigma: float
    images: tuple[int, ...]
    """(R) the picture that each row belongs to."""
    grid: tuple[int, int] | None
    """Height and width in tokens where the tokens are the whole generated picture."""
    categories: tuple[str, ...]
    """(C)"""
    thresholds: Tensor
    """(C) of the image gate."""
    latents: tuple[int, ...]
    """(S) numbers in the dictionary."""
    reading: Reading
    """What the gates saw."""
    highest: list[list[float]]
    """(R, C) of its scores, as numbers."""
    is_open: bool
    """Whether any gate was open."""


@dataclass
class Line:
    """A category at one site and noise level, in one picture."""

    threshold: float
    score: float = 0.0
    token: int = 0
    """Where the score was highest."""
    grid: tuple[int, int] | None = None
    """In which picture that was; None where the tokens were none."""
    fired: bool = False
    """A score was above the image gate's threshold."""
    open: int = 0
    """Tokens whose gate was open."""
    tokens: int = 0

    @property
    def severity(self) -> float:
        """0 to 1, as the heat map has it."""
        return float(_severity(torch.tensor(self.score, dtype=torch.float64), self.threshold))

    def take(self, score: float, threshold: float, token: int, grid: tuple[int, int] | None) -> None:
        """Keeps what is more severe: scores against thresholds of different modifiers have different units."""
        # s / (s + τ) rises with s / τ; a product instead, because τ may be 0 or infinite.
        old = self.score * threshold if self.score else 0.0
        new = score * self.threshold if score else 0.0
        if (new, score) >= (old, self.score):
            self.score, self.threshold, self.token, self.grid = score, threshold, token, grid


class _Watched(NamedTuple):
    """What visits have in common whose records are merged."""

    site: Site
    images: tuple[int, ...]
    """(R)"""
    categories: tuple[str, ...]
    """(C)"""
    thresholds: tuple[float, ...]
    """(C)"""


class _Heat(NamedTuple):
    """The highest scores of tokens over the noise levels."""

    scores: Tensor
    """(R, L, C), where the model computes."""
    grid: tuple[int, int]


class _Latents(NamedTuple):
    """How often latents fired at a site and noise level, kept as it comes: few visits are ever asked about."""

    members: Tensor
    """(C, S) bool"""
    counts: Tensor
    """(R, S)"""


class FiringLog:
    """What fired during one sampling run."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, Site, float, str], Line] = {}
        self._heat: dict[_Watched, _Heat] = {}
        self._latents: dict[tuple[float, tuple[int, ...], _Watched], _Latents] = {}

    def add(self, record: FiringRecord) -> None:
        """Takes in one visit. Repeated visits at one noise level keep the highest.

        A visit of closed gates must cost little beside the block that it watches.
        """
        reading = record.reading
        thresholds: list[float] = record.thresholds.to(reading.scores).tolist()  # as the gate compares
        places: list[list[int]] = reading.place.tolist()
        opened: list[list[int]] | None = reading.open.sum(1).tolist() if record.is_open else None
        watched = _Watched(record.site, record.images, record.categories, tuple(thresholds))
        shows = False
        for row, image in enumerate(record.images):
            for column, category in enumerate(record.categories):
                score, threshold = record.highest[row][column], thresholds[column]
                key = image, record.site, record.sigma, category
                line = self._lines.get(key)
                if line is None:
                    line = self._lines[key] = Line(threshold)
                line.take(score, threshold, places[row][column], record.grid)
                line.fired = line.fired or score > threshold
                line.tokens = reading.scores.shape[1]
                if opened is not None:
                    line.open = max(line.open, opened[row][column])
                shows = shows or (score > 0 and score >= NAMED_FROM * (score + threshold))
        if shows:
            self._count(record, watched)
        if record.grid is not None:
            self._warm(record, record.grid, watched)

    def _count(self, record: FiringRecord, watched: _Watched) -> None:
        key, counts = (record.sigma, record.latents, watched), record.reading.counts
        known = self._latents.get(key)
        if known is not None and known.counts.shape == counts.shape:
            counts = known.counts.maximum(counts.to(known.counts.device))
        self._latents[key] = _Latents(record.reading.members, counts)

    def _warm(self, record: FiringRecord, grid: tuple[int, int], watched: _Watched) -> None:
        scores = record.reading.scores.detach()
        known = self._heat.get(watched)
        if known is None or known.grid != grid or known.scores.shape != scores.shape:
            self._heat[watched] = _Heat(scores.clone(), grid)
        else:
            # A new tensor: calls of one run may come from threads with and without inference mode.
            self._heat[watched] = _Heat(known.scores.maximum(scores.to(known.scores.device)), grid)

    def categories(self) -> tuple[str, ...]:
        """The categories that were watched."""
        return tuple(dict.fromkeys(category for _, _, _, category in self._lines))

    def severity(self, image: int, category: str | None = None) -> float:
        """The highest severity of a category (None: of any) in a picture, 0 to 1."""
        return max((line.severity for _, _, _, line in self._of(image, category)), default=0.0)

    def fired(self, image: int, category: str | None = None) -> bool:
        """Whether a score rose above its image gate's threshold in a picture."""
        return any(line.fired for _, _, _, line in self._of(image, category))

    def heat(self, image: int, category: str | None = None) -> Tensor | None:
        """The highest severity (H, W) over image sites and noise levels; None where no image site was watched."""
        maps = [
            _severity(heat.scores[row, :, column], watched.thresholds[column]).view(heat.grid)
            for watched, heat in self._heat.items()
            for row, of in enumerate(watched.images)
            for column, name in enumerate(watched.categories)
            if of == image and category in (None, name)
        ]
        return torch.stack(maps).amax(0) if maps else None

    def table(self, image: int, category: str | None = None) -> list[str]:
        """Lines of text, the header first: where, when and how strongly each category showed, and which latents.

        Visits at which nothing fired are only counted.
        """
        rows = [("site", "sigma", "category", "severity", "score", "open", "highest at", "latents × tokens")]
        silent = 0
        for site, sigma, name, line in self._of(image, category):
            if line.score == 0:
                silent += 1
                continue
            latents = self._fired(image, site, sigma, name).most_common(LATENTS_SHOWN)
            rows.append(
                (
                    str(site),
                    f"{sigma:.3f}",
                    name,
                    f"{line.severity:.2f}",
                    f"{line.score:.3g}",
                    f"{line.open}/{line.tokens}",
                    _place(line),
                    ", ".join(f"{latent}×{count}" for latent, count in latents),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return [*lines, f"({silent} lines where nothing fired are left out)"] if silent else lines

    def _fired(self, image: int, site: Site, sigma: float, category: str) -> Counter[int]:
        """A category's latents that fired, with the number of their tokens."""
        found: Counter[int] = Counter()
        for (level, numbers, watched), kept in self._latents.items():
            names = watched.categories
            if (watched.site, level) == (site, sigma) and image in watched.images and category in names:
                held = kept.members[names.index(category)].cpu()
                for row, of in enumerate(watched.images):
                    if of == image:
                        counts: list[int] = (kept.counts[row].cpu() * held).tolist()
                        found |= Counter(dict(zip(numbers, counts, strict=True)))
        return found

    @property
    def is_empty(self) -> bool:
        """Whether no site was watched at all."""
        return not self._lines

    def _of(self, image: int, category: str | None) -> list[tuple[Site, float, str, Line]]:
        """The lines of a picture: by site in forward order, then from noise to picture."""
        found = [
            (site, sigma, name, line)
            for (of, site, sigma, name), line in self._lines.items()
            if of == image and category in (None, name)
        ]
        return sorted(found, key=lambda line: (line[0].depth, -line[1], line[2]))


def _severity(scores: Tensor, threshold: float) -> Tensor:
    """s / (s + τ) of scores in any shape, in float32; 0 where nothing fires."""
    fine = scores.cpu().double()
    return (fine / (fine + threshold)).where(fine > 0, 0.0).float()


def _place(line: Line) -> str:
    if line.grid is None:
        return f"token {line.token}"
    row, column = divmod(line.token, line.grid[1])
    return f"patch {row},{column}"
