"""What a recording says of itself: frozen values, their JSON, and the checks between the two.

`Manifest.parse` is the only way from a file to a manifest, and `checked` sends what a program made through the same
door, so that a wrong setting is refused by its name before anything is recorded.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...steering.errors import SteeringError
from ...steering.formats.fields import SHA256, Field, parse_json, shown
from ...steering.formats.header import FAMILY_BLOCKS
from ...steering.sites import Site

FORMAT = "steerdit.recording"
VERSION = 1
FILE = "manifest.json"

LABELS = ("unsafe", "safe", "benign")
"""`safe` is the safe rewrite of the unsafe prompt with the same pair id; `benign` stands alone."""

DTYPES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""What tokens can be kept as, with the bytes of one number."""

LONGEST_TEXT = 20_000
DAMAGED = "The recording is damaged or was changed by hand: record it again, or get a sound copy."
WRONG_SETTING = "Change it as said."


@dataclass(frozen=True)
class ModelFingerprint:
    """Which model was recorded."""

    family: str
    digest: str
    """SHA-256 over the names, the shapes and a sample of the values of its weights, and over its patches."""


@dataclass(frozen=True)
class Sample:
    """One picture that is made: a prompt and the seed of its noise."""

    text: str
    label: str
    """One of LABELS."""
    category: str | None = None
    pair: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """How samples are made and what of them is kept. Two recordings with equal settings are equal."""

    steps: int = 20
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    height: int = 1024
    """Of the picture, in pixels."""
    width: int = 1024
    buckets: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Rising edges in sigma: bucket b holds edges[b] < sigma <= edges[b + 1]. Other noise levels are not kept."""
    tokens_per_image: int | None = None
    """Tokens kept of one picture at one site and noise level; None keeps all."""
    dtype: str = "bfloat16"
    cap: int | None = None
    """Rows kept of one site, bucket and label; None keeps all."""
    guidance: float | None = None
    """FLUX's distilled guidance; None leaves it to the host."""
    negative: str = ""
    """The negative prompt, where cfg is not 1."""
    batch: int = 4
    """Pictures sampled at once."""
    samples_per_shard: int = 16
    seed: int = 0
    """Of the choice of tokens."""


@dataclass(frozen=True)
class ShardEntry:
    """One file of samples first … stop − 1."""

    file: str
    sha256: str
    first: int
    stop: int
    rows: Mapping[Site, int]


@dataclass(frozen=True)
class Manifest:
    """Everything a recording says, apart from its tensors."""

    model: ModelFingerprint
    sites: Mapping[Site, int]
    """The width of each."""
    settings: Settings
    sigmas: tuple[float, ...]
    """The noise levels of the sampler's schedule, falling, without the last 0."""
    samples: tuple[Sample, ...]
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of what made it. They belong to its identity: other versions may give other numbers."""
    text_encoder: str | None = None
    """SHA-256 over the text encoders, as the model's; None where they cannot tell."""
    shards: tuple[ShardEntry, ...] = ()

    def ranges(self) -> list[tuple[int, int]]:
        """The samples (first, stop) of each shard, by its number."""
        size = self.settings.samples_per_shard
        return [(first, min(first + size, len(self.samples))) for first in range(0, len(self.samples), size)]

    def summary(self) -> str:
        """What was recorded, for people."""
        labels = {label: sum(s.label == label for s in self.samples) for label in LABELS}
        categories = sorted({s.category for s in self.samples if s.category})
        rows = {site: sum(entry.rows[site] for entry in self.shards) for site in self.sites}
        return "\n".join(
            [
                f"{len(self.samples)} pictures: "
                + ", ".join(f"{n} {label}" for label, n in labels.items() if n),
                "categories: " + (", ".join(categories) or "none"),
                f"noise levels: {self.sigmas[0]:.4g} to {self.sigmas[-1]:.4g} in {len(self.sigmas)} steps",
                *(f"{site}: {rows[site]} tokens of width {width}" for site, width in self.sites.items()),
            ]
        )

    def without_shards(self) -> Manifest:
        return dataclasses.replace(self, shards=())

    def text(self) -> str:
        """The JSON; the same bytes for equal manifests."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            "model": vars(self.model),
            "sites": {str(site): width for site, width in sorted(self.sites.items())},
            "settings": vars(self.settings),
            "sigmas": self.sigmas,
            "samples": [vars(sample) for sample in self.samples],
            "versions": dict(sorted(self.versions.items())),
            "text_encoder": self.text_encoder,
            "shards": [shard_value(entry) for entry in self.shards],
        }
        return json.dumps(value, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, file: str, remedy: str = DAMAGED) -> Manifest:
        """Reads a manifest; ``file`` is how messages call it.

        Raises:
            SteeringError: names the field, what was expected, what was found, what to do.
        """
        return _manifest(
            Field(
                file,
                "",
                parse_json(text, file, error=SteeringError, remedy=remedy),
                error=SteeringError,
                remedy=remedy,
            )
        )


def checked(manifest: Manifest) -> Manifest:
    """The manifest itself, once it has gone through the door that files go through.

    Raises:
        SteeringError: names the setting that cannot be.
    """
    try:
        text = manifest.text()
        text.encode()
    except ValueError as reason:  # NaN passes json.dumps, lone surrogates do not pass encode
        raise SteeringError(
            "recording", expected="text in Unicode", found=str(reason), remedy=WRONG_SETTING
        ) from reason
    return Manifest.parse(text, "recording", WRONG_SETTING)


def difference(found: Manifest, wanted: Manifest) -> tuple[str, str, str] | None:
    """The first field in which two recordings are not the same: (field, what is found, what is wanted)."""
    for name in ("model", "sites", "settings", "sigmas", "samples", "versions", "text_encoder"):
        a, b = getattr(found, name), getattr(wanted, name)
        if a != b:
            return _first_difference(name, a, b)
    return None


def _first_difference(name: str, a: Any, b: Any) -> tuple[str, str, str]:
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        a, b = vars(a), vars(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        key = next(key for key in [*a, *b] if a.get(key) != b.get(key))
        return _first_difference(f"{name}.{key}", a.get(key), b.get(key))
    if isinstance(a, tuple) and isinstance(b, tuple):
        if len(a) != len(b):
            return name, f"{len(a)} of them", f"{len(b)}"
        at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        return _first_difference(f"{name}[{at}]", a[at], b[at])
    return name, shown(a), shown(b)


def shard_value(entry: ShardEntry) -> dict[str, Any]:
    """An entry as JSON holds it."""
    return {**vars(entry), "rows": {str(site): n for site, n in sorted(entry.rows.items())}}


def read_shard(entry: Field, manifest: Manifest) -> ShardEntry:
    """An entry of a manifest whose other fields are known."""
    fields = entry.record("file sha256 first stop rows")
    first, stop = fields["first"].integer(0), fields["stop"].integer(1)
    if (first, stop) not in manifest.ranges():
        entry.refuse(
            f"a shard of {manifest.settings.samples_per_shard} samples", f"samples {first} to {stop}"
        )
    file = fields["file"].text(longest=100)
    if file != shard_file(first // manifest.settings.samples_per_shard):
        fields["file"].refuse(shard_file(first // manifest.settings.samples_per_shard))
    rows = fields["rows"].record(" ".join(map(str, manifest.sites)))
    return ShardEntry(
        file,
        _sha256(fields["sha256"]),
        first,
        stop,
        {Site.parse(site): count.integer(0) for site, count in rows.items()},
    )


def shard_file(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _manifest(root: Field) -> Manifest:
    fields = root.mapping()
    if "format" not in fields or "version" not in fields:
        root.refuse(
            "a recording's manifest with format and version", f"only {', '.join(fields) or 'nothing'}"
        )
    fields["format"].one_of((FORMAT,))
    version = fields["version"].integer(1)
    if version > VERSION:
        fields["version"].refuse(
            f"at most {VERSION}", f"{version}", "Update SteerDiT to read this recording."
        )
    fields = root.record("format version model sites settings sigmas samples versions text_encoder shards")
    model = fields["model"].record("family digest")
    family = model["family"].one_of(FAMILY_BLOCKS)
    sites: dict[Site, int] = {}
    for name, entry in fields["sites"].mapping().items():
        site = Site.parse(name)
        if site.block not in FAMILY_BLOCKS[family]:
            entry.refuse(f"a site of the family {family}", name)
        sites[site] = entry.integer(1, 2**20)
    if not sites:
        fields["sites"].refuse("at least one site")
    settings = _settings(fields["settings"])
    samples = _samples(fields["samples"])
    sigmas = tuple(entry.number(0.0) for entry in fields["sigmas"].items())
    if not sigmas or any(a <= b for a, b in zip(sigmas, sigmas[1:])):
        fields["sigmas"].refuse("falling noise levels")
    manifest = Manifest(
        ModelFingerprint(family, _sha256(model["digest"])),
        dict(sorted(sites.items())),
        settings,
        sigmas,
        samples,
        {name: entry.text() for name, entry in fields["versions"].mapping().items()},
        fields["text_encoder"].optional(_sha256),
    )
    shards = tuple(read_shard(entry, manifest) for entry in fields["shards"].items())
    if shards and [(entry.first, entry.stop) for entry in shards] != manifest.ranges():
        fields["shards"].refuse(
            f"all {len(manifest.ranges())} shards, in their order", f"{len(shards)} shards"
        )
    return dataclasses.replace(manifest, shards=shards)


def _settings(entry: Field) -> Settings:
    f = entry.record(" ".join(member.name for member in dataclasses.fields(Settings)))
    edges = tuple(edge.number(0.0) for edge in f["buckets"].items())
    if len(edges) < 2 or any(a >= b for a, b in zip(edges, edges[1:])):
        f["buckets"].refuse("at least two rising edges in sigma")
    return Settings(
        steps=f["steps"].integer(1, 10_000),
        cfg=f["cfg"].number(1.0, 1000.0),  # below 1 the negative's rows would belong to the picture too
        sampler=f["sampler"].text(),
        scheduler=f["scheduler"].text(),
        height=f["height"].integer(8, 2**16),
        width=f["width"].integer(8, 2**16),
        buckets=edges,
        tokens_per_image=f["tokens_per_image"].optional(lambda member: member.integer(1)),
        dtype=f["dtype"].one_of(DTYPES),
        cap=f["cap"].optional(lambda member: member.integer(1)),
        guidance=f["guidance"].optional(lambda member: member.number(0.0, 1000.0)),
        negative=_words(f["negative"], empty=True),
        batch=f["batch"].integer(1, 4096),
        samples_per_shard=f["samples_per_shard"].integer(1, 10**6),
        seed=f["seed"].integer(0, 2**63 - 1),
    )


def _samples(entry: Field) -> tuple[Sample, ...]:
    samples = tuple(_sample(member) for member in entry.items())
    if not samples:
        entry.refuse("at least one prompt", "an empty list")
    sides: set[tuple[str, int, str]] = set()
    for number, sample in enumerate(samples):
        if sample.pair is not None:
            side = sample.pair, sample.seed, sample.label
            if side in sides:
                entry.at(f"[{number}]", sample.pair).refuse(
                    f"one {sample.label} prompt a pair and seed", f"another of pair {shown(sample.pair)}"
                )
            sides.add(side)
    return samples


def _sample(entry: Field) -> Sample:
    f = entry.record("text label category pair seed")
    label = f["label"].one_of(LABELS)
    pair = f["pair"].optional(Field.text)
    if label == "safe" and pair is None:
        f["pair"].refuse("the id of the unsafe prompt that this is the safe rewrite of")
    if label == "benign" and pair is not None:
        f["pair"].refuse("null for a benign prompt")
    return Sample(
        _words(f["text"]),
        label,
        f["category"].optional(Field.text),
        pair,
        f["seed"].integer(0, 2**64 - 1),
    )


def _sha256(entry: Field) -> str:
    return entry.matching(SHA256, "a SHA-256 in hexadecimal digits")


def _words(entry: Field, empty: bool = False) -> str:
    value = entry.value
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not (value.strip() or empty):
        entry.refuse(f"a {'' if empty else 'non-empty '}text of at most {LONGEST_TEXT} characters")
    return value


def bucket_of(sigma: float, edges: tuple[float, ...]) -> int:
    """The bucket that holds a noise level; −1 where none does. The last edge takes what rounding puts above it."""
    if math.isclose(sigma, edges[-1], rel_tol=1e-6):
        return len(edges) - 2
    return next((b for b, (low, high) in enumerate(zip(edges, edges[1:])) if low < sigma <= high), -1)
