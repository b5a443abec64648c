"""What a training is told: one frozen value, from Python, TOML or JSON, every field checked by its name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...steering.errors import SteeringError
from ...steering.formats.fields import Field, parse_json

ACTIVATIONS = ("topk", "batchtopk", "jumprelu")
CENTRES = ("median", "mean")
PRECISIONS = ("float32", "bfloat16")
GRADIENTS = ("normalised", "plain")

WRONG = "Correct the value; the help page of Train SAE lists what each one may be."


@dataclass(frozen=True)
class TrainingConfig:
    """A sparse autoencoder and how it is trained. Two trainings of equal configurations and data are equal."""

    expansion: int = 16
    """Latents per width of the site."""
    latents: int = 0
    """N; 0 leaves it to the expansion."""
    k: int = 32
    """Latents that fire at a token: exactly (topk), on average over a batch (batchtopk), as the target (jumprelu)."""
    activation: str = "batchtopk"
    steps: int = 5000
    batch: int = 4096
    """Tokens in one step, over all processes."""
    rate: float = 0.0
    """Adam's highest learning rate; 0 is 2e-4 / sqrt(N / 2^14) (Gao et al., 2406.04093, section 3.1)."""
    warmup: int = 100
    """Steps in which the rate rises from 0."""
    decay: float = 0.2
    """The last share of the steps, in which it falls to 0."""
    gradients: str = "normalised"
    """Divided by the length of the step before, so that the large ones of the beginning do not stay in Adam's second
    moment and hold up what comes after; or plain. Ours: peers get there by clipping summed squares to length 1; unlike
    theirs it bounds no single step."""
    auxiliary: float = 1 / 32
    """Weight of AuxK (Gao et al., appendix A.2); 0 turns it off."""
    dead_after: int = 500_000
    """Tokens without firing after which a latent counts as dead."""
    centre: str = "median"
    """Where the decoder's bias begins: the geometric median of activations, or their mean."""
    precision: str = "float32"
    """Of the encoder's product, the one large one. All else is float32 in any case."""
    bandwidth: float = 0.1
    """jumprelu: width of the kernel behind the straight-through gradient, where activations have variance 1."""
    sparsity: float = 1.0
    """jumprelu: weight of (L0 / k - 1)^2."""
    held_out: float = 0.05
    """Share of the samples (pictures) that nothing is trained on."""
    held_tokens: int = 8192
    """At most so many of their tokens are reconstructed for the figures."""
    evaluate_every: int = 250
    """Steps."""
    patience: int = 0
    """Evaluations without a gain after which training ends early; 0 never ends it early."""
    gain: float = 0.005
    """The share by which the held-out FVU has to fall to count as a gain."""
    log_every: int = 25
    """Steps."""
    checkpoint_every: int = 500
    """Steps."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check(dataclasses.asdict(self), "TrainingConfig")

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> TrainingConfig:
        """From a table of a file; ``where`` is how messages call it.

        Raises:
            SteeringError: a key is not known, or a value not allowed; the message names it.
        """
        return cls(**cls.checked(values, where))

    @classmethod
    def checked(cls, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The values themselves, if each is one that `parse` takes."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise SteeringError(
                    f"{where}: {name}",
                    expected=f"only the keys {', '.join(known)}",
                    found=f"the unknown key {name!r}",
                    remedy=f"Did you mean {near[0]!r}?" if near else "Remove it.",
                )
        return _check(values, where)

    def said(self) -> dict[str, Any]:
        """Its fields for what tells trainings apart: those from before there was a choice of gradients are plain."""
        values = dataclasses.asdict(self)
        if self.gradients == "plain":
            del values["gradients"]
        return values

    def size(self, width: int) -> int:
        """N at a site of that width."""
        return self.latents or self.expansion * width

    def top_rate(self, width: int) -> float:
        """The learning rate between warm-up and decay."""
        return self.rate or 2e-4 / (self.size(width) / 2**14) ** 0.5

    def rate_at(self, step: int, width: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = (step + 1) / max(1, self.warmup)
        falling = (self.steps - step) / (self.decay * self.steps) if self.decay else 1.0
        return self.top_rate(width) * min(1.0, rising, falling)

    def toml(self) -> str:
        """Text that `read_config` reads back as an equal value."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in dataclasses.asdict(self).items())


def read_table(path: Path) -> dict[str, Any]:
    """The keys and values of a .toml or .json file.

    Raises:
        SteeringError: it cannot be read.
    """
    remedy = "Correct the file."
    try:
        content = path.read_bytes()
    except OSError as reason:
        raise SteeringError(
            str(path),
            expected="a readable file",
            found=reason.strerror or str(reason),
            remedy="Check its path.",
        ) from reason
    if path.suffix.lower() == ".json":
        value = parse_json(content, str(path), error=SteeringError, remedy=remedy)
        return {
            name: member.value
            for name, member in Field(str(path), "", value, SteeringError, remedy).mapping().items()
        }
    try:
        return parse_toml(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as reason:
        raise SteeringError(str(path), expected="text in UTF-8", found=str(reason), remedy=remedy) from reason


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The keys and values of a TOML text; `where` is how messages call it.

    Raises:
        SteeringError: it is not TOML, or this Python does not read it.
    """
    if not text.strip():
        return {}
    if sys.version_info < (3, 11):
        raise SteeringError(
            where,
            expected="JSON, as Python before 3.11 does not read TOML",
            found=f"Python {sys.version.split()[0]}",
            remedy='Write the same keys as a .json file: {"k": 32}.',
        )
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as reason:
        raise SteeringError(
            where, expected="lines such as `k = 32`", found=str(reason), remedy="Correct the line."
        ) from reason


def read_config(path: Path) -> TrainingConfig:
    """A configuration file, whose keys are the fields of `TrainingConfig`; what it leaves out has its default."""
    return TrainingConfig.parse(read_table(path), str(path))


def _check(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    root = Field(where, "", dict(values), SteeringError, WRONG)
    fields = root.mapping()
    for name, choices in (
        ("activation", ACTIVATIONS), ("centre", CENTRES), ("precision", PRECISIONS), ("gradients", GRADIENTS)
    ):  # fmt: skip
        if name in fields:
            fields[name].one_of(choices)
    for name, lowest in _WHOLE.items():
        if name in fields:
            fields[name].integer(lowest, 2**40)
    checked = dict(values)
    for name, (lowest, highest) in _REAL.items():
        if name in fields:
            checked[name] = fields[name].number(lowest, highest)
    return checked


_WHOLE = {
    "expansion": 1,
    "latents": 0,
    "k": 1,
    "steps": 1,
    "batch": 1,
    "warmup": 0,
    "dead_after": 1,
    "held_tokens": 1,
    "evaluate_every": 1,
    "patience": 0,
    "log_every": 1,
    "checkpoint_every": 1,
    "seed": 0,
}
_REAL = {
    "rate": (0.0, 1.0),
    "decay": (0.0, 1.0),
    "auxiliary": (0.0, 1.0),
    "bandwidth": (1e-6, 10.0),
    "sparsity": (0.0, 1e6),
    "held_out": (0.0, 0.5),
    "gain": (0.0, 1.0),
}
