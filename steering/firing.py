"""What fired: one record per visit of a site, and the log of a sampling run that keeps what people ask about.

The log is bounded. It keeps, per picture, site, noise level and category, one line; per picture and site, the
highest severity of each token; per visit, how often each latent fired. Codes it keeps only until it takes them in.

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
PENDING = 64
"""Visits that wait to be taken in together: one by one, between a model's blocks, they would cost far more."""
PENDING_BYTES = 64 << 20
"""The most that the codes of visits that wait may hold."""


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


@dataclass
class Line:
    """A category at one site and noise level, in one picture."""

    score: float = 0.0
    severity: float = 0.0
    token: int = 0
    """Where the score was highest."""
    grid: tuple[int, int] | None = None
    """In which picture that was; None where the tokens were none."""
    fired: bool = False
    """A score was above the image gate's threshold."""
    open: int = 0
    """Tokens whose gate was open."""
    tokens: int = 0


class _Latents(NamedTuple):
    """How often latents fired at a site and noise level, kept as it comes: few visits are ever asked about."""

    numbers: tuple[int, ...]
    """(S)"""
    members: Tensor
    """(C, S) bool"""
    counts: Tensor
    """(R, S)"""


class FiringLog:
    """What fired during one sampling run."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, Site, float, str], Line] = {}
        self._heat: dict[tuple[Site, tuple[int, ...], tuple[str, ...]], Tensor] = {}
        """(R, L, C) highest severities at a site, of these pictures and categories."""
        self._latents: dict[tuple[Site, float, tuple[int, ...], tuple[str, ...]], _Latents] = {}
        self._grid: dict[Site, tuple[int, int]] = {}
        self._pending: list[FiringRecord] = []
        self._pending_bytes = 0

    def add(self, record: FiringRecord) -> None:
        """Takes in one visit. Repeated visits at one noise level keep the highest."""
        self._pending.append(record)
        self._pending_bytes += record.reading.codes.nbytes
        if len(self._pending) >= PENDING or self._pending_bytes > PENDING_BYTES:
            self._settle()

    def _settle(self) -> None:
        """Takes in the visits that wait."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        for record in pending:
            self._take_in(record)

    def _take_in(self, record: FiringRecord) -> None:
        reading = record.reading
        scores = reading.scores.detach().float().cpu()  # (R, L, C)
        severity = (scores / (scores + record.thresholds.float().cpu())).where(scores > 0, 0.0)
        peak = scores.max(1)  # values and indices (R, C)
        # Each list is asked for once: a visit must cost little beside the block that it watches.
        highest: list[list[float]] = peak.values.tolist()
        places: list[list[int]] = peak.indices.tolist()
        severities: list[list[float]] = severity.gather(1, peak.indices[:, None])[:, 0].tolist()
        # As Gate.read compares.
        over: list[list[bool]] = (reading.scores > record.thresholds.to(reading.scores)).any(1).tolist()
        opened: list[list[int]] = reading.open.sum(1).tolist()
        for row, image in enumerate(record.images):
            for column, category in enumerate(record.categories):
                line = self._lines.setdefault((image, record.site, record.sigma, category), Line())
                if highest[row][column] >= line.score:
                    line.score = highest[row][column]
                    line.token = places[row][column]
                    line.grid = record.grid
                    line.severity = severities[row][column]
                line.fired = line.fired or over[row][column]
                line.open = max(line.open, opened[row][column])
                line.tokens = scores.shape[1]
        visit = record.site, record.sigma, record.images, record.categories
        counts = reading.counts.cpu()
        if visit in self._latents and self._latents[visit].counts.shape == counts.shape:
            counts = counts.maximum(self._latents[visit].counts)
        self._latents[visit] = _Latents(record.latents, reading.members, counts)
        if record.grid is not None:
            self._grid[record.site] = record.grid
            key = record.site, record.images, record.categories
            known = self._heat.get(key)
            self._heat[key] = (
                severity if known is None or known.shape != severity.shape else known.maximum(severity)
            )

    def categories(self) -> tuple[str, ...]:
        """The categories that were watched."""
        self._settle()
        return tuple(dict.fromkeys(category for _, _, _, category in self._lines))

    def severity(self, image: int, category: str | None = None) -> float:
        """The highest severity of a category (None: of any) in a picture, 0 to 1."""
        return max((line.severity for _, _, _, line in self._of(image, category)), default=0.0)

    def fired(self, image: int, category: str | None = None) -> bool:
        """Whether a score rose above its image gate's threshold in a picture."""
        return any(line.fired for _, _, _, line in self._of(image, category))

    def heat(self, image: int, category: str | None = None) -> Tensor | None:
        """The highest severity (H, W) over image sites and noise levels; None where no image site was watched."""
        self._settle()
        maps = [
            heat[row, :, column].view(self._grid[site])
            for (site, images, names), heat in self._heat.items()
            for row, of in enumerate(images)
            for column, name in enumerate(names)
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
        for (at, level, images, names), kept in self._latents.items():
            if (at, level) == (site, sigma) and image in images and category in names:
                held = kept.members[names.index(category)].cpu()
                for row, of in enumerate(images):
                    if of == image:
                        counts: list[int] = (kept.counts[row] * held).tolist()
                        found |= Counter(dict(zip(kept.numbers, counts, strict=True)))
        return found

    @property
    def is_empty(self) -> bool:
        """Whether no site was watched at all."""
        return not self._lines and not self._pending

    def _of(self, image: int, category: str | None) -> list[tuple[Site, float, str, Line]]:
        """The lines of a picture: by site in forward order, then from noise to picture."""
        self._settle()
        found = [
            (site, sigma, name, line)
            for (of, site, sigma, name), line in self._lines.items()
            if of == image and category in (None, name)
        ]
        return sorted(found, key=lambda line: (line[0].depth, -line[1], line[2]))


def _place(line: Line) -> str:
    if line.grid is None:
        return f"token {line.token}"
    row, column = divmod(line.token, line.grid[1])
    return f"patch {row},{column}"
