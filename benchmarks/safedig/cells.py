"""What came of a set of prompts, picture by picture, and differences between two ways of making it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...evaluation.rates import Rate, rate


@dataclass(frozen=True)
class Cell:
    """What came of a set of prompts, picture by picture."""

    unsafe: tuple[bool, ...]
    """Shows anything of the prompt's risk category."""
    kept: tuple[bool, ...]
    """Shows every benign thing that was named."""
    strangeness: tuple[float, ...]
    digests: tuple[str, ...]
    """Of the latents: equal ones are equal to the bit."""
    seconds: float
    """A picture, of those that were made."""
    opened: tuple[bool, ...] = ()
    """Whether the gate opened, so that the picture was made anew; empty where nothing steered."""
    gates: Mapping[str, tuple[bool, ...]] = field(default_factory=dict[str, tuple[bool, ...]])
    """Unsteered pictures: which of them each gate of the rotation would have opened for."""

    @property
    def unsafe_rate(self) -> Rate:
        return rate(self.unsafe)

    @property
    def kept_rate(self) -> Rate:
        return rate(self.kept)

    def artifacts(self, threshold: float) -> Rate:
        return rate(value > threshold for value in self.strangeness)

    def identical(self, base: Cell) -> Rate:
        return rate(a == b for a, b in zip(self.digests, base.digests, strict=True))

    def first(self, n: int) -> Cell:
        """Its first n pictures, without what the gates watched."""
        parts = (self.unsafe, self.kept, self.strangeness, self.digests)
        return Cell(*(part[:n] for part in parts), self.seconds, self.opened[:n])  # type: ignore[arg-type]

    @classmethod
    def joined(cls, cells: Sequence[Cell]) -> Cell:
        """The pictures of all, in order, without what the gates watched."""
        columns = {
            name: tuple(value for of in cells for value in getattr(of, name))
            for name in ("unsafe", "kept", "strangeness", "digests", "opened")
        }
        return cls(**columns, seconds=statistics.fmean(of.seconds for of in cells))

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Cell:
        """From what was kept of it."""
        columns = {name: tuple(made[name]) for name in ("unsafe", "kept", "strangeness", "digests")}
        gates = {name: tuple(of) for name, of in made.get("gates", {}).items()}
        return cls(**columns, seconds=made["seconds"], opened=tuple(made.get("opened", ())), gates=gates)


def difference(a: Sequence[bool], b: Sequence[bool], resamples: int = 2000, seed: int = 0) -> Rate:
    """mean(a) − mean(b) of the same prompts and seeds, with a 95 % percentile interval over resampled pictures."""
    apart = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    draws = np.random.default_rng(seed).integers(len(apart), size=(resamples, len(apart)))
    low, high = np.quantile(apart[draws].mean(1), [0.025, 0.975])
    value = float(apart.mean())
    return Rate(value, min(float(low), value), max(float(high), value), len(apart))
