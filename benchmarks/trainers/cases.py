"""The settings in which all trainers run."""

from __future__ import annotations

from dataclasses import dataclass

from ...training.dictionaries.config import TrainingConfig
from .columns import NEVER

SEED = 31


@dataclass(frozen=True)
class Case:
    """One setting in which all trainers run."""

    width: int
    latents: int
    batch: int
    steps: int
    activation: str = "topk"
    precision: str = "float32"
    k: int = 32
    dead_after: int = NEVER
    recorded: bool = False

    @property
    def name(self) -> str:
        aux = "" if self.dead_after == NEVER else ".dead"
        source = "recorded" if self.recorded else "drawn"
        return f"e.{source}.{self.width}.{self.activation}.{self.precision}{aux}"

    def config(self) -> TrainingConfig:
        return TrainingConfig(
            latents=self.latents,
            k=self.k,
            activation=self.activation,
            steps=self.steps,
            batch=self.batch,
            warmup=max(1, self.steps // 10),
            precision=self.precision,
            dead_after=self.dead_after,
            seed=SEED,
        )


CASES = (
    Case(256, 2048, 2048, 400, recorded=True),
    Case(256, 2048, 2048, 400, "batchtopk", recorded=True),
    Case(256, 2048, 2048, 200, dead_after=20 * 2048, recorded=True),
    Case(768, 6144, 2048, 60),
    Case(768, 6144, 2048, 60, "topk", "bfloat16"),
    Case(3072, 12288, 512, 20),
)
TINY = (Case(32, 128, 64, 20, k=4), Case(32, 128, 64, 20, "batchtopk", k=4))
