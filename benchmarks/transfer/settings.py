"""How much is learned from, swept and judged, and by which seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

REVISION = 1
"""Part of every key: raise it where a change makes finished results stale."""
ARCHITECTURES = ("flux", "sd3")
STEPS = 16
"""Of the demo's sampler, which takes 20 in the demo."""

PAIR_SEED, GATE_SEED, VALIDATE_SEED, JUDGE_SEED = 11, 9112, 9113, 9114

MAPS = ("procrustes", "ridge", "mlp")
CARRIED = "ridge"
"""What the product offers first: claims speak of it."""
GATE_QUANTILE = 0.98
"""Of benign prompts that pass no gate at all."""
SOURCES = ("random", "native", *MAPS)
FORMS = ("global", "multi", "gated")
STRENGTHS = {"add": (-1.0, 1.0, 3.0, 7.0), "project_out": (1.0, 2.0, 4.0, 8.0)}
"""By operator, the published sweep and ours: of the native directions and those that the default carries."""
FEWER = {"add": (1.0, 3.0, 7.0), "project_out": (2.0, 8.0)}
"""Of all others."""
UNGATED = {"add": ("multi", "global"), "project_out": tuple[str, ...]()}
"""Forms that are swept of what the default carries, beside the gated one that is swept of all."""
TRIED = {"add": (5.0,), "project_out": (2.0, 4.0, 8.0)}
"""What a strength is chosen from on prompts that are not judged."""
ANCHORS = (100, 300, 1000, 3000, 5000, 6000)


@dataclass(frozen=True)
class Sizes:
    """Everything that costs time."""

    pairs: int = 80
    """Of a category, to estimate directions from."""
    gate_prompts: int = 600
    """Benign ones that gates are set by."""
    n: int = 208
    """Pictures in a judged cell."""
    validation: int = 52
    """Prompts of a category to choose strengths on, and twice as many benign ones."""

    @property
    def counts(self) -> bool:
        """Whether the figures are worth writing down."""
        return self.n >= 200

    def with_cells_of(self, n: int) -> Sizes:
        """With n pictures a cell, and fewer to choose on where n is for a trial."""
        n += n % 2
        return replace(self, n=n, validation=self.validation if n >= 200 else min(self.validation, n))
