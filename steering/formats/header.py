"""What a bundle says about itself: frozen values, their JSON, and the checks between the two.

`parse_header` is the only way from a file to a `BundleHeader`, and `write_bundle` sends what it is given
through the same door.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import SteeringError
from ..sites import Site
from ..standardise import STANDARDISERS
from .anchors import ANCHOR_BLOCKS, AnchorSite, anchor_site, anchor_site_json
from .categories import RateRecord, rate_of, rates_json, require_category_name
from .directions import DIRECTION_BLOCKS, DirectionSite, direction_site, direction_site_json
from .fields import LICENSE, SHA256, Field, listed, parse_json

T = TypeVar("T")

FORMAT = "steerdit.bundle"
VERSION = 1

FAMILY_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "flux": ("text", "double", "single"),
    "sd3": ("text", "joint"),
}
"""The blocks at which a bundle of each family may hold something."""

INPUT_SCALES = (1e-12, 1e12)
"""The smallest and the largest: rows multiplied or divided by it must stay numbers that float32 can hold."""

ACTIVATIONS = ("relu", "jumprelu", "topk")
READ_DTYPES = ("F32", "F16", "BF16")

UPDATE = "The bundle may be made by a newer SteerDiT: update the pack. Otherwise the file is damaged."


@dataclass(frozen=True)
class Base:
    """The checkpoint whose activations the bundle knows."""

    name: str
    sha256: str | None = None
    """Of the checkpoint's file; None where it cannot be said."""


@dataclass(frozen=True)
class Made:
    """How the bundle came about."""

    by: str
    """Program and version."""
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Whatever repeats the making: data, seeds, steps. Free-form JSON."""


@dataclass(frozen=True)
class GateThresholds:
    """Thresholds on a category's score; a gate opens where the score is strictly above."""

    token: float
    """For one token's score."""
    image: float
    """For the highest score among a row's tokens."""
    false_positive: RateRecord | None = None
    """Of the image gate on benign prompts."""
    recall: RateRecord | None = None
    """Of the image gate on prompts of the category."""


@dataclass(frozen=True)
class Category:
    """Latents that stand for one risk; a token's score is the sum of weight × latent."""

    latents: tuple[int, ...]
    weights: tuple[float, ...]
    """One per latent, at least 0."""
    gate: GateThresholds


@dataclass(frozen=True)
class SaeSite:
    """A sparse autoencoder at one site: what its tensors look like and which latents matter."""

    width: int
    """d, the size of the activation."""
    latents: int
    """N, the size of the dictionary."""
    activation: str
    """relu, jumprelu or topk."""
    k: int | None = None
    """Latents kept by topk; for the others, at most a note of how it was trained."""
    input_scale: float = 1.0
    """The activation is multiplied by it before it is encoded."""
    input_norm: str = "none"
    """none, layer_norm or unit_rms: how each token is standardised first (see standardise.py); scale is 1 then."""
    categories: Mapping[str, Category] = field(default_factory=dict[str, Category])

    def selected(self, categories: tuple[str, ...] | None = None) -> tuple[int, ...]:
        """The latents of these categories (None: of all), each once, in rising order."""
        chosen = self.categories if categories is None else categories
        return tuple(sorted({latent for name in chosen for latent in self.categories[name].latents}))

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that must be there: by name within the site, with shapes in N and d."""
        matrix, row = (self.latents, self.width), (self.latents,)
        shapes = {"encoder": matrix, "encoder_bias": row, "decoder": matrix, "decoder_bias": (self.width,)}
        return {**shapes, "threshold": row} if self.activation == "jumprelu" else shapes

    def optional_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that may be there."""
        adapted = {"decoder_adapted": (self.latents, self.width)}
        return {**adapted, "threshold": (self.latents,)} if self.activation == "topk" else adapted


@dataclass(frozen=True)
class TensorRecord:
    """What the header promises of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    """Of the tensor's bytes in the file."""


@dataclass(frozen=True)
class BundleHeader:
    """Everything a bundle says, apart from its tensors."""

    name: str
    family: str
    base: Base
    license: str
    """SPDX expression."""
    made: Made
    sites: Mapping[Site, SaeSite] = field(default_factory=dict[Site, SaeSite])
    directions: Mapping[Site, DirectionSite] = field(default_factory=dict[Site, DirectionSite])
    anchors: Mapping[Site, AnchorSite] = field(default_factory=dict[Site, AnchorSite])
    """At attentions; the first is where unsafe content was found best."""


def parse_header(text: str, file: str) -> tuple[BundleHeader, dict[str, TensorRecord]]:
    """Reads a bundle's header.

    Args:
        text: the JSON.
        file: how messages call the file.

    Raises:
        BundleError: names the field, what was expected, what was found, what to do.
    """
    root = Field(file, "", parse_json(text, f"{file}: header"))
    fields = root.mapping()
    if "format" not in fields or "version" not in fields:
        root.refuse("a SteerDiT header with format and version", f"only {listed(fields) or 'nothing'}")
    fields["format"].one_of((FORMAT,))
    version = fields["version"].integer(1)
    if version > VERSION:
        fields["version"].refuse(
            f"at most {VERSION}", f"{version}", "Update the SteerDiT pack to read this bundle."
        )
    fields = root.record("format version name family base license made sites tensors", "directions anchors")
    families = {
        **FAMILY_BLOCKS,
        **(DIRECTION_BLOCKS if "directions" in fields else {}),
        **(ANCHOR_BLOCKS if "anchors" in fields else {}),
    }
    family = fields["family"].one_of(families, UPDATE)
    base = fields["base"].record("name", "sha256")
    made = fields["made"].record("by recipe")
    made["recipe"].mapping()
    sites = _by_site(fields["sites"], family, FAMILY_BLOCKS, _sae_site)
    directions: dict[Site, DirectionSite] = {}
    if "directions" in fields:
        directions = _by_site(fields["directions"], family, DIRECTION_BLOCKS, direction_site)
    anchors: dict[Site, AnchorSite] = {}
    if "anchors" in fields:
        anchors = _by_site(fields["anchors"], family, ANCHOR_BLOCKS, anchor_site, attention=True)
    if not sites and not directions and not anchors:
        fields["sites"].refuse("at least one site")
    header = BundleHeader(
        name=fields["name"].text(longest=200),
        family=family,
        base=Base(base["name"].text(), base["sha256"].optional(_sha256) if "sha256" in base else None),
        license=fields["license"].matching(LICENSE, "an SPDX licence expression, such as Apache-2.0"),
        made=Made(made["by"].text(), json.loads(json.dumps(made["recipe"].value))),
        sites=sites,
        directions=directions,
        anchors=anchors,
    )
    return header, {name: _tensor(entry) for name, entry in fields["tensors"].mapping().items()}


def header_json(header: BundleHeader, tensors: Mapping[str, TensorRecord]) -> str:
    """The JSON that `parse_header` reads back as the same values."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": header.name,
        "family": header.family,
        "base": {"name": header.base.name, "sha256": header.base.sha256},
        "license": header.license,
        "made": {"by": header.made.by, "recipe": dict(header.made.recipe)},
        "sites": {str(site): _site_json(entry) for site, entry in header.sites.items()},
        **_section("directions", header.directions, direction_site_json),
        **_section("anchors", header.anchors, anchor_site_json),
        "tensors": {
            name: {"dtype": record.dtype, "shape": list(record.shape), "sha256": record.sha256}
            for name, record in tensors.items()
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _section(name: str, sites: Mapping[Site, T], written: Callable[[T], object]) -> dict[str, object]:
    """Nothing where there are none, so that older packs read what they can use."""
    found = {str(site): written(entry) for site, entry in sites.items()}
    return {name: found} if found else {}


def _sha256(entry: Field) -> str:
    return entry.matching(SHA256, "a sha256 as 64 small hexadecimal digits")


def _by_site(
    section: Field,
    family: str,
    blocks: Mapping[str, tuple[str, ...]],
    read: Callable[[Field], T],
    attention: bool = False,
) -> dict[Site, T]:
    """A section of the header by its sites, at those blocks that the family has; all are attentions, or none is."""
    sites: dict[Site, T] = {}
    for written, entry in section.mapping().items():
        site = _site(written, entry, family, blocks.get(family, ()), attention)
        if site in sites:
            entry.refuse("each site once", f"{site} again")
        sites[site] = read(entry)
    return sites


def _site(written: str, entry: Field, family: str, blocks: tuple[str, ...], attention: bool) -> Site:
    if len(written) > 40:
        entry.refuse("the name of a site", f"{len(written)} characters")
    try:
        site = Site.parse(written)
    except SteeringError as reason:
        entry.refuse(reason.expected, reason.found, UPDATE)
    if str(site) != written:
        entry.refuse(f"the site written as {site}", repr(written))
    if site.is_attention != attention:
        entry.refuse("an attention" if attention else "a site with tokens, not an attention", str(site))
    if site.block not in blocks:
        entry.refuse(
            f"a site in {', '.join(blocks) or 'none'}, which family {family} has", repr(written), UPDATE
        )
    return site


def _sae_site(entry: Field) -> SaeSite:
    kinds: dict[str, Callable[[Field], SaeSite]] = {"sae": _sae}
    fields = entry.mapping()
    if "kind" not in fields:
        entry.refuse("the key 'kind'", f"only {listed(fields) or 'nothing'}")
    return kinds[fields["kind"].one_of(kinds, UPDATE)](entry)


def _sae(entry: Field) -> SaeSite:
    fields = entry.record("kind width latents activation k input_scale categories", "input_norm")
    latents = fields["latents"].integer(1, 2**31)
    activation = fields["activation"].one_of(ACTIVATIONS, UPDATE)
    k = fields["k"].optional(lambda k: k.integer(1, latents))
    if activation == "topk" and k is None:
        fields["k"].refuse(f"a whole number, 1 to {latents}, as topk needs")
    scale = fields["input_scale"].number(*INPUT_SCALES)
    norm = fields["input_norm"].one_of(STANDARDISERS, UPDATE) if "input_norm" in fields else "none"
    if norm != "none" and scale != 1.0:
        fields["input_scale"].refuse(f"1, as input_norm {norm} leaves no scale")
    return SaeSite(
        width=fields["width"].integer(1, 2**31),
        latents=latents,
        activation=activation,
        k=k,
        input_scale=scale,
        input_norm=norm,
        categories={
            name: _category(name, of, latents) for name, of in fields["categories"].mapping().items()
        },
    )


def _category(name: str, entry: Field, count: int) -> Category:
    require_category_name(name, entry)
    fields = entry.record("latents weights gate")
    latents = tuple(latent.integer(0, count - 1) for latent in fields["latents"].items())
    if not latents or len(set(latents)) != len(latents):
        fields["latents"].refuse("at least one latent, and each once")
    weights = tuple(weight.single(0.0) for weight in fields["weights"].items())
    if len(weights) != len(latents):
        fields["weights"].refuse(f"{len(latents)} weights, one per latent", f"{len(weights)}")
    if not any(weights):
        fields["weights"].refuse("at least one weight above 0, or the score would always be 0")
    gate = fields["gate"].record("token image", "false_positive recall")
    return Category(
        latents,
        weights,
        GateThresholds(
            token=gate["token"].single(0.0),
            image=gate["image"].single(0.0),
            false_positive=gate["false_positive"].optional(rate_of) if "false_positive" in gate else None,
            recall=gate["recall"].optional(rate_of) if "recall" in gate else None,
        ),
    )


def _tensor(entry: Field) -> TensorRecord:
    fields = entry.record("dtype shape sha256")
    shape = tuple(size.integer(0) for size in fields["shape"].items())
    return TensorRecord(fields["dtype"].one_of(READ_DTYPES, UPDATE), shape, _sha256(fields["sha256"]))


def _site_json(site: SaeSite) -> dict[str, object]:
    return {
        "kind": "sae",
        "width": site.width,
        "latents": site.latents,
        "activation": site.activation,
        "k": site.k,
        "input_scale": site.input_scale,
        **({} if site.input_norm == "none" else {"input_norm": site.input_norm}),
        "categories": {name: _category_json(category) for name, category in site.categories.items()},
    }


def _category_json(category: Category) -> dict[str, object]:
    gate = category.gate
    return {
        "latents": list(category.latents),
        "weights": list(category.weights),
        "gate": {
            "token": gate.token,
            "image": gate.image,
            **rates_json(false_positive=gate.false_positive, recall=gate.recall),
        },
    }
