"""How much is recorded, trained and judged, and by which seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...training.adaptation.terms import AdaptationConfig
from ...training.dictionaries.config import TrainingConfig
from ...training.gates.thresholds import GateRule
from ...training.gates.weights import WeightRule

REVISION = 2
"""Part of every key: raise it where a change makes finished results stale."""

ARCHITECTURES = ("flux", "sd3")

TRAIN_SEED, CALIBRATE_SEED, JUDGE_SEED, VALIDATE_SEED = 301, 302, 9004, 9003
"""Settings are chosen on prompts of the last one, which is never reported."""
STEPS = 10
"""Of the demo's sampler, which takes 20 in the demo."""
ROUTED = 3
"""Sites that SafeDIG acts at."""


@dataclass(frozen=True)
class Sizes:
    """Everything that costs time."""

    pairs: int = 48
    """Of a category in the training recordings, half of them beside a benign thing."""
    benign: int = 96
    calibration_pairs: int = 24
    calibration_benign: int = 192
    words_factor: int = 8
    """Times as many prompts at the site `text`, where nothing has to be sampled."""
    tokens_per_image: int = 32
    """In training recordings; calibration keeps all, for a gate sees the highest of all."""
    n: int = 208
    """Pictures in a cell."""
    few: int = 52
    """Of each rotation, in cells that are read over all four: ablations and attacks."""
    judged_by: int = JUDGE_SEED
    routing_pairs: int = 32
    routing_benign: int = 8
    count: int = 48
    """Latents at most of each thing of a category, or of its attribute."""
    ratio: float = 2.0
    """A latent's mean on unsafe tokens is above so many times that on others."""
    training: TrainingConfig = TrainingConfig(
        latents=1024,
        k=24,
        steps=800,
        batch=1024,
        rate=1e-3,
        gradients="plain",
        dead_after=200_000,
        checkpoint_every=400,
    )
    """With plain gradients, as there was nothing else when they were trained."""
    adaptation: AdaptationConfig = AdaptationConfig(stability=0.1)
    weights: WeightRule = WeightRule()
    """How a gate's latents are weighed against each other."""
    gates: GateRule = GateRule(margin=1.05)
    """The least margin of 1, 1.05, 1.1 and 1.25 at which at most 5 % of benign prompts open a gate in every rotation,
    by the upper end of the interval of 416 validation prompts: with 1 it is 5.6 %. With the shipped bundle's 1.25 no
    benign prompt opened a target's gate and 40 % of its own did not."""

    @property
    def counts(self) -> bool:
        """Whether the figures are worth writing down."""
        return self.n >= 200 and 4 * self.few >= 200 and self.judged_by == JUDGE_SEED

    def judged_on(self, seed: int) -> Sizes:
        """By other prompts and seeds."""
        return replace(self, judged_by=seed)

    @property
    def words(self) -> Sizes:
        """With as many prompts as are recorded at the site `text`."""
        more = {
            name: self.words_factor * getattr(self, name)
            for name in ("pairs", "benign", "calibration_pairs", "calibration_benign")
        }
        return replace(self, **more)

    @property
    def recorded(self) -> Sizes:
        """Without what bundles do not depend on."""
        return replace(self, n=0, few=0, judged_by=0, routing_pairs=0, routing_benign=0)

    @property
    def routed(self) -> Sizes:
        """Without what routing does not depend on."""
        return replace(self, n=0, few=0, judged_by=0, gates=GateRule())

    def with_cells_of(self, n: int) -> Sizes:
        """With n pictures a cell, and recordings to match where n is for a trial."""
        if n >= 200:
            return replace(self, n=n)
        return replace(
            self,
            n=n,
            few=min(self.few, n),
            pairs=min(self.pairs, max(8, n)),
            benign=min(self.benign, max(16, n)),
            calibration_pairs=min(self.calibration_pairs, max(8, n // 2)),
            calibration_benign=min(self.calibration_benign, max(32, 2 * n)),
            routing_pairs=min(self.routing_pairs, max(8, n // 2)),
            routing_benign=min(self.routing_benign, 4),
        )
