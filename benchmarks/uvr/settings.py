"""How much is learned from and judged, by which seeds, and how the flow is restricted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

NAME = "uvr"
"""The report's."""
REVISION = 1
"""Part of every key: raise it where a change makes finished results stale."""
STEPS = 16
"""Of the demo's sampler, which takes 20 in the demo."""
LEARN_SEED, VALIDATE_SEED, JUDGE_SEED = 7111, 7112, 7113
REPEL, DIRECTION = "repel", "direction"
"""What may steer beside a restriction."""


@dataclass(frozen=True)
class Anchored:
    """Which anchors, in the words of the node *Collect Unsafe Anchors*."""

    concepts: str = "things"
    """Each thing and each attribute has its own, or each of the four `categories`."""
    site: str = "double.1.attention"
    startup_percent: float = 0.4
    false_positives: float = 0.0
    """Of each concept."""


@dataclass(frozen=True)
class Way:
    """One way to restrict, in the words of the node *Restrict Flow*."""

    anchored: Anchored = Anchored()

    task: str = "generation"
    score: str = "whitened"
    threshold: str = "calibrated"
    threshold_value: float = 0.0
    localise_at: str = "default"
    sites: str = "all"
    core: float = 0.2
    ring: float = 0.4
    safe: float = 1.05
    noise: float = 0.999
    startup_percent: float = 0.36
    end_percent: float = 0.36
    form: str = "renormalised"
    several: bool = False
    noise_percent: float = 1.0
    localised: bool = True
    """Else the whole picture is marked, whatever it shows."""

    @property
    def asked(self) -> dict[str, Any]:
        """The node's inputs."""
        said = asdict(self)
        del said["anchored"], said["localised"]
        return said


PUBLISHED = Way(
    score="dot",
    threshold="given",
    threshold_value=0.3,
    core=0.2,
    ring=0.4,
    safe=1.05,
    noise=0.999,
    startup_percent=0.36,
    end_percent=0.36,
)
"""The paper's constants, with its threshold for weapons; it looks where ours looks."""
CHOSEN = Way(
    core=0.0,
    ring=0.0,
    safe=20.0,
    noise=0.999,
    noise_percent=0.12,
    startup_percent=0.4,
    end_percent=1.0,
)
"""By the validation prompts: see TRIED."""
TRIED: tuple[Way, ...] = (
    PUBLISHED,
    replace(CHOSEN, noise_percent=1.0, safe=1.05),
    replace(CHOSEN, noise=0.0),
    replace(CHOSEN, noise=0.3, noise_percent=1.0),
    CHOSEN,
)
"""What the way was chosen among, in the order in which it was come upon."""


@dataclass(frozen=True)
class SpreadingWay(Way):
    """One in which what is marked spreads to patches of a lower score beside it."""

    spread: float = 1.0


EDITING_ANCHORED = Anchored(site="double.1.attention,single.0.attention,single.1.attention")
"""Where references are seen, the first single block tells unsafe things best."""
UNSPREAD = replace(CHOSEN, anchored=EDITING_ANCHORED, task="both", localise_at="single.0.attention")
EDITING = SpreadingWay(**vars(UNSPREAD), spread=0.3)
"""By the validation edits: see EDITING_TRIED."""
EDITING_TRIED: tuple[Way, ...] = (
    replace(
        PUBLISHED, anchored=EDITING_ANCHORED, task="both", end_percent=1.0, localise_at="double.1.attention"
    ),
    replace(UNSPREAD, localise_at="double.1.attention"),
    replace(UNSPREAD, noise=0.0),
    UNSPREAD,
    EDITING,
)


@dataclass(frozen=True)
class Sizes:
    """Everything that costs time."""

    learnt: int = 240
    """Unsafe prompts, as many mixed ones and twice as many benign ones that anchors and thresholds are made from."""
    n: int = 208
    """Pictures in a judged cell."""
    validation: int = 32
    """Unsafe prompts, as many mixed and twice as many benign ones to choose settings on."""
    several: int = 4
    """Anchors of a concept besides their mean."""
    traced: int = 48
    """Unsafe pictures in which the mask is held against the oracle's at every step."""

    @property
    def counts(self) -> bool:
        """Whether the figures are worth writing down."""
        return self.n >= 200

    def with_cells_of(self, n: int) -> Sizes:
        """With n pictures a cell; a trial also learns from fewer and chooses on fewer."""
        if n >= 200:
            return replace(self, n=n)
        small = max(n, 4)
        return Sizes(min(self.learnt, 12 * small), n, min(self.validation, n), 2, min(self.traced, n))
