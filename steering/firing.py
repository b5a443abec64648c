"""What fired: one record per visit of a site, and the log of a sampling run that keeps what people ask about.

The log is bounded. It keeps, per picture, site, noise level and category, one line; per picture and site, the
highest severity of each token. It never keeps codes.

Scores of different sites have different units, so they are compared by severity, s / (s + τ) with τ the image
gate's threshold: 0 where nothing fires, 0.5 at the threshold, never more than 1. Whether a score is over its
threshold is kept beside it, as the gate sees it: one rounding step above τ, severity is still 0.5.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .sites import Site

LATENTS_SHOWN = 5


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
    scores: Tensor
    """(R, L, C)"""
    open: Tensor
    """(R, L, C) bool"""
    latents: tuple[int, ...]
    """(S) numbers in the dictionary."""
    members: Tensor
    """(C, S) bool: which latents a category holds."""
    counts: Tensor
    """(R, S) at how many tokens each latent fired."""


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
    latents: Counter[int] = field(default_factory=Counter[int])
    """The category's latents that fired, with the number of their tokens."""


class FiringLog:
    """What fired during one sampling run."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, Site, float, str], Line] = {}
        self._heat: dict[tuple[int, Site, str], Tensor] = {}
        self._grid: dict[Site, tuple[int, int]] = {}

    def add(self, record: FiringRecord) -> None:
        """Takes in one visit. Repeated visits at one noise level keep the highest."""
        scores = record.scores.detach().float().cpu()  # (R, L, C)
        thresholds = record.thresholds.float().cpu()
        severity = torch.where(scores > 0, scores / (scores + thresholds), torch.zeros_like(scores))
        over = (
            (record.scores > record.thresholds.to(record.scores)).any(1).cpu()
        )  # (R, C), as Gate.read compares
        peak = scores.max(1)  # values and indices (R, C)
        opened = record.open.sum(1).cpu()  # (R, C)
        counts: list[list[int]] = record.counts.cpu().tolist()
        members: list[list[bool]] = record.members.tolist()
        if record.grid is not None:
            self._grid[record.site] = record.grid
        for row, image in enumerate(record.images):
            for column, category in enumerate(record.categories):
                line = self._lines.setdefault((image, record.site, record.sigma, category), Line())
                if float(peak.values[row, column]) >= line.score:
                    line.score = float(peak.values[row, column])
                    line.token = int(peak.indices[row, column])
                    line.grid = record.grid
                    line.severity = float(severity[row, line.token, column])
                line.fired = line.fired or bool(over[row, column])
                line.open = max(line.open, int(opened[row, column]))
                line.tokens = scores.shape[1]
                fired = zip(record.latents, counts[row], members[column], strict=True)
                line.latents |= Counter({latent: n for latent, n, held in fired if held and n > 0})
                if record.grid is None:
                    continue
                key = image, record.site, category
                heat = severity[row, :, column].clone()
                known = self._heat.get(key)
                self._heat[key] = heat if known is None or known.shape != heat.shape else known.maximum(heat)

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
            heat.view(self._grid[site])
            for (of, site, name), heat in self._heat.items()
            if of == image and category in (None, name) and site in self._grid
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
            latents = line.latents.most_common(LATENTS_SHOWN)
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


def _place(line: Line) -> str:
    if line.grid is None:
        return f"token {line.token}"
    row, column = divmod(line.token, line.grid[1])
    return f"patch {row},{column}"
