"""What a recipe says: one frozen value a section.

A recipe is a .toml file (or .json of the same shape). Paths in it are relative to its own folder. Where a section is
about something that has a configuration of its own, such as the training of an autoencoder, its keys are those fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..adaptation.domains import LESSONS
from ..adaptation.domains import METHODS as ADAPTATIONS
from ..adaptation.terms import AdaptationConfig
from ..dictionaries.config import TrainingConfig
from ..gates.thresholds import GateRule
from ..routing.ranking import Weights
from ..selection.choosing import SelectionRule

ROUTED = "routed"
BOTH = "both"
QUANTILES, CROSSING = "quantiles", "crossing"
SELECTED, ALL = "selected", "all"


@dataclass(frozen=True)
class ModelPart:
    """[model]: which files are loaded."""

    base: str
    """The checkpoint's name, as the bundle will say it."""
    checkpoint: str = ""
    """One file with model and text encoders; or the next two."""
    diffusion_model: str = ""
    text_encoders: tuple[str, ...] = ()
    clip_type: str = "flux"
    """As *Load CLIP* calls it: flux or sd3."""
    own_text_encoder: str = ""
    """`module:function` within this pack, for the demo's model, whose text encoder is none of the host's."""
    architecture: str = ""
    """A name of architectures.KNOWN, for --plan while the model's file is not there."""


@dataclass(frozen=True)
class PromptsPart:
    """[prompts]"""

    file: str
    """.jsonl or .csv with prompt, label, category and pair."""
    calibration: str = ""
    """Other prompts for the gates; empty: a share of the file's prompts, which nothing else sees."""
    held_out: float = 0.25
    """That share."""
    target: str = ""
    """A domain to adapt to that the autoencoders are not trained on; empty: the file's own pairs."""
    pairs: int = 1000
    """For --plan while the file is not there: pairs, benign prompts, and words of each."""
    benign: int = 1000
    words: int = 25


@dataclass(frozen=True)
class RecordPart:
    """[record]: as the node *Record Activations*."""

    sites: str = "default"
    buckets: str = "4"
    seeds: int = 1
    first_seed: int = 0
    steps: int = 20
    cfg: float = 1.0
    guidance: float = 0.0
    """FLUX.1-dev's distilled guidance; 0 leaves it to the host."""
    sampler: str = "euler"
    scheduler: str = "simple"
    width: int = 1024
    height: int = 1024
    negative: str = ""
    tokens_per_image: int = 64
    """0 keeps all."""
    cap: int = 0
    """0 sets no bound."""
    dtype: str = "bfloat16"
    batch: int = 4
    samples_per_shard: int = 16


@dataclass(frozen=True)
class RoutePart:
    """[route]: as the node *Route Sites*; not done where [train] names its sites."""

    sites: str = "all"
    operator: str = BOTH
    count: int = 3
    pairs: int = 32
    benign: int = 8


@dataclass(frozen=True)
class TrainPart:
    """[train]: besides the fields of TrainingConfig."""

    sites: str = ROUTED
    """The best of [route], or an expression such as `double.18.text, single.37.image`."""
    labels: tuple[str, ...] = ()
    """Prompts to learn from; none named is all."""
    counterfactuals: float = 0.0
    """Share of each batch that is tokens around the crossing from unsafe to safe."""


@dataclass(frozen=True)
class AdaptPart:
    """[adapt]: besides the fields of AdaptationConfig."""

    on: bool = True
    learn_from: str = LESSONS[0]
    categories: str = "all"
    rows: str = SELECTED
    method: str = ADAPTATIONS[0]


@dataclass(frozen=True)
class GatesPart:
    """[gates]: besides the fields of GateRule."""

    thresholds: str = QUANTILES


@dataclass(frozen=True)
class BundlePart:
    """[bundle]"""

    file: str
    name: str = ""
    """Empty: the file's."""
    license: str = "LicenseRef-unknown"
    """An SPDX expression."""


@dataclass(frozen=True)
class MachinePart:
    """[machine]: where it runs, and for --plan what it is assumed to do."""

    device: str = "auto"
    """Of training, selection and adaptation: auto, cpu or cuda."""
    threads: int = 0
    """Of the processor, for training; 0 is all but one."""
    tflops: float = 300.0
    """10^12 operations a second that sampling reaches, all in all."""
    tflops_float32: float = 40.0
    """The same of training, selection and adaptation."""
    disk: float = 1000.0
    """10^6 bytes a second."""


@dataclass(frozen=True)
class Recipe:
    """Everything that one bundle is made by."""

    folder: Path
    """Of the file, from which its paths start."""
    model: ModelPart
    prompts: PromptsPart
    bundle: BundlePart
    record: RecordPart = RecordPart()
    route: RoutePart = RoutePart()
    weights: Weights = Weights()
    train: TrainPart = TrainPart()
    training: TrainingConfig = TrainingConfig()
    select: SelectionRule = SelectionRule()
    adapt: AdaptPart = AdaptPart()
    adaptation: AdaptationConfig = AdaptationConfig()
    gates: GatesPart = GatesPart()
    gate_rule: GateRule = GateRule()
    machine: MachinePart = MachinePart()

    def path(self, written: str) -> Path:
        """A path of the recipe."""
        return self.folder / Path(written).expanduser()
