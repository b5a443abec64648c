"""Encoders that are asked once: token means are remembered on disk, part by part, and whole states in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from safetensors.torch import load_file, save_file
from torch import Tensor

from ...training.directions.sources import HiddenStates, Layer, token_means
from ..store import Store

TEXTS = 500
"""Of a part."""


@dataclass(frozen=True)
class Remembered:
    """HiddenStates whose only state of a text is its token mean: all that estimates and maps look at."""

    encoder: HiddenStates
    store: Store

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.encoder.layers

    def fingerprint(self) -> str:
        return self.encoder.fingerprint()

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """For each text (len(layers), 1, d).

        Raises:
            OutOfTime: something must be read, and the budget is spent; the parts read so far stay.
        """
        for at in range(0, len(texts), TEXTS):
            means = self._means(texts[at : at + TEXTS], layers)
            yield from means.movedim(1, 0)[:, :, None]

    def _means(self, texts: Sequence[str], layers: Sequence[Layer]) -> Tensor:
        inputs = {"encoder": self.fingerprint(), "layers": list(layers), "texts": list(texts)}
        path = self.store.path("means", inputs, ".safetensors")
        if not path.exists():
            self.store.budget.check()
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.part")
            save_file({"means": token_means(self.encoder, texts, layers)}, partial)
            os.replace(partial, path)
            print(f"{self.name}: {len(texts)} texts read", flush=True)
        return load_file(path)["means"]


@dataclass(frozen=True)
class Kept:
    """HiddenStates of some texts, read in one go and kept in memory."""

    encoder: HiddenStates
    known: dict[tuple[str, ...], list[Tensor]] = field(default_factory=dict[tuple[str, ...], list[Tensor]])

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.encoder.layers

    def fingerprint(self) -> str:
        return self.encoder.fingerprint()

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """As the encoder's."""
        key = (*map(str, layers), *texts)
        if key not in self.known:
            self.known[key] = list(self.encoder.states(texts, layers))
        yield from self.known[key]
