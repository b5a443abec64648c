"""Random dictionaries in memory, and steering by loops in float64 to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerdit.steering import Gate, SelectedLatents
from steerdit.steering.formats.bundle import LatentTensors
from steerdit.steering.formats.header import Category, GateThresholds, SaeSite

CATEGORIES = {
    "weapons": Category((1, 4, 9), (1.0, 0.5, 2.0), GateThresholds(token=0.6, image=2.0)),
    "bloody": Category((4, 6), (1.5, 1.0), GateThresholds(token=0.5, image=1.2)),
}


@dataclass
class Dictionary:
    """N latents of width d with everything that a bundle may hold."""

    sae: SaeSite
    tensors: LatentTensors

    @classmethod
    def draw(cls, seed: int, activation: str = "jumprelu", width: int = 8, latents: int = 12) -> Dictionary:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        sae = SaeSite(
            width,
            latents,
            activation,
            k=3 if activation == "topk" else None,
            input_scale=float(normal(1).abs()) + 0.2,
            categories=CATEGORIES,
        )
        tensors = LatentTensors(
            tuple(range(latents)),
            encoder=normal(latents, width) / width**0.5,
            encoder_bias=normal(latents),
            decoder=normal(latents, width),
            decoder_bias=normal(width),
            threshold=normal(latents).abs() / 2 if activation == "jumprelu" else None,
            decoder_adapted=normal(latents, width),
        )
        return cls(sae, tensors)

    def load(
        self, *names: str, whole: bool = False, **settings: Any
    ) -> tuple[SelectedLatents, dict[str, Category]]:
        """The latents of some categories (all without names), as a bundle's reader would give them."""
        chosen = {name: CATEGORIES[name] for name in names or CATEGORIES}
        selected = self.sae.selected(tuple(chosen))
        rows = list(range(self.sae.latents) if whole else selected)
        part = LatentTensors(
            tuple(rows),
            *(
                tensor if name == "decoder_bias" or tensor is None else tensor[rows]
                for name, tensor in self._tensors()
            ),
        )
        return SelectedLatents(self.sae, part, selected, **settings), chosen

    def gated(self, kind: str, *names: str, whole: bool = False) -> tuple[SelectedLatents, Gate]:
        latents, chosen = self.load(*names, whole=whole)
        return latents, Gate.over(kind, chosen, latents.latents)

    def _tensors(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self.tensors, name)) for name in LatentTensors._fields[1:]]

    def codes(self, token: Tensor) -> list[float]:
        """All N codes of one token (d), by the stored equations."""
        t, d = self.tensors, self.sae.width
        centred = [self.sae.input_scale * float(token[i]) - float(t.decoder_bias[i]) for i in range(d)]
        pre = [
            sum(float(t.encoder[f, i]) * centred[i] for i in range(d)) + float(t.encoder_bias[f])
            for f in range(self.sae.latents)
        ]
        if t.threshold is not None:
            return [p if p > float(theta) else 0.0 for p, theta in zip(pre, t.threshold)]
        positive = [max(p, 0.0) for p in pre]
        if self.sae.activation == "topk":
            kept = sorted(range(len(pre)), key=lambda f: -positive[f])[: self.sae.k]
            return [p if f in kept else 0.0 for f, p in enumerate(positive)]
        return positive

    def decoded(self, code: dict[int, float], rows: Tensor) -> list[float]:
        """D(z) in the activation's units."""
        bias = self.tensors.decoder_bias
        return [
            (sum(z * float(rows[f, i]) for f, z in code.items()) + float(bias[i])) / self.sae.input_scale
            for i in range(self.sae.width)
        ]

    def open_categories(
        self, kind: str, row: list[list[float]], at: int, names: tuple[str, ...]
    ) -> list[str]:
        """Which gates are open at token `at` of a row of codes."""

        def score(name: str, code: list[float]) -> float:
            return sum(w * code[f] for f, w in zip(CATEGORIES[name].latents, CATEGORIES[name].weights))

        def is_open(name: str) -> bool:
            thresholds = CATEGORIES[name].gate
            if kind == "always":
                return any(row[at][f] > 0 for f in CATEGORIES[name].latents)
            if kind in ("token", "both") and score(name, row[at]) <= thresholds.token:
                return False
            return kind == "token" or max(score(name, code) for code in row) > thresholds.image

        return [name for name in names if is_open(name)]
