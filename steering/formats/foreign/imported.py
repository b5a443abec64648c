"""Another project's dictionary as a bundle: at a site of a family, with the latents that stand for a risk."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ...errors import BundleError
from ...sites import Site
from ..bundle import TORCH_DTYPES, Bundle, LatentTensors
from ..container import sha256_of
from ..fields import shown
from ..header import Base, BundleHeader, Category, GateThresholds, Made, header_json, parse_header
from ..rows import require_rows
from ..writing import write_bundle
from .dictionary import AT_ONCE, Dictionary
from .tensors import StoredTensors

_TERM = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?(?::([0-9]{1,20}(?:\.[0-9]{1,20})?))?")

UNKNOWN = "LicenseRef-unknown"


@dataclass(frozen=True)
class Placed:
    """Where a dictionary acts and what it stands for; the file knows neither."""

    family: str
    site: str = ""
    """Empty: as the file's name says."""
    categories: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """By name, latents as `parse_latents` reads them."""
    threshold: float = 0.0
    """Of every category's score, for tokens and for pictures."""
    name: str = ""
    base: str = "not said"
    license: str = UNKNOWN


@dataclass(frozen=True)
class ImportedBundle(Bundle):
    """A bundle whose rows stay in another project's file; only those asked for are read and converted."""

    dictionary: Dictionary

    @property
    def identity(self) -> str:
        said = header_json(self.header, {}) + str(
            (str(self.path), self.container.stamp, self.dictionary.semantics)
        )
        return sha256_of([said.encode(errors="replace")])

    def read_latents(self, site: Site, latents: Sequence[int] | None = None) -> LatentTensors:
        self.entry(site)
        found = self.dictionary.read(latents)
        if latents is not None:  # chosen for what they say; of a whole dictionary some may be dead
            for part in (found.encoder, found.decoder):
                require_rows(f"{self.path}: {site}", part, found.indices)
        return found

    def read_sae(self, site: Site) -> LatentTensors:
        return self.read_latents(site)


def import_dictionary(dictionary: Dictionary, placed: Placed) -> ImportedBundle:
    """A bundle that reads from the dictionary's own file.

    Raises:
        BundleError: the site, a category or a latent does not fit.
    """
    assert isinstance(dictionary.tensors, StoredTensors), "only a safetensors file is read a part at a time"
    header = describe(dictionary, placed)
    return ImportedBundle(header, {}, dictionary.tensors.container, dictionary)


def write_dictionary(
    path: Path,
    dictionary: Dictionary,
    placed: Placed,
    *,
    dtype: str = "F32",
    progress: Callable[[int, int], None] | None = None,
) -> Bundle:
    """Writes the whole dictionary as a bundle file, in one stroke.

    Args:
        dtype: of the matrices, a key of `TORCH_DTYPES`; vectors stay in float32.
        progress: called with (latents converted, latents in all).
    """
    header = describe(dictionary, placed)
    (site,) = header.sites
    latents, width = dictionary.latents, dictionary.width
    matrices = {
        part: torch.empty(latents, width, dtype=TORCH_DTYPES[dtype]) for part in ("encoder", "decoder")
    }
    vectors = {part: torch.empty(latents) for part in ("encoder_bias", "threshold")}
    for start in range(0, latents, AT_ONCE):
        rows = dictionary.read(range(start, min(start + AT_ONCE, latents)))
        for part, tensor in {**matrices, **vectors}.items():
            if (values := getattr(rows, part)) is not None:
                tensor[start : start + AT_ONCE] = values
        if progress is not None:
            progress(min(start + AT_ONCE, latents), latents)
    if dictionary.threshold is None:
        del vectors["threshold"]
    tensors: dict[str, Tensor] = {**matrices, **vectors, "decoder_bias": dictionary.decoder_bias.float()}
    return write_bundle(path, header, {f"{site}.{part}": tensor for part, tensor in tensors.items()})


def describe(dictionary: Dictionary, placed: Placed) -> BundleHeader:
    """The header of a bundle with this dictionary, checked as if it came from a file."""
    where = str(dictionary.tensors.path)
    site = _site(dictionary, placed.site)
    categories = {
        name: Category(
            tuple(weights), tuple(weights.values()), GateThresholds(placed.threshold, placed.threshold)
        )
        for name, latents in placed.categories.items()
        if (weights := parse_latents(latents))
    }
    header = BundleHeader(
        name=placed.name or dictionary.tensors.path.stem,
        family=placed.family,
        base=Base(placed.base),
        license=placed.license,
        made=Made("SteerDiT's import of another project's file", {"imported": dict(dictionary.about)}),
        sites={site: dictionary.described(categories)},
    )
    return parse_header(header_json(header, {}), where)[0]


def parse_latents(text: str) -> dict[int, float]:
    """Latents with their weights: `3, 17:0.5, 100-103` is 3 and 100 to 103 with weight 1, and 17 with 0.5."""
    weights: dict[int, float] = {}
    for term in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        match = _TERM.fullmatch(term)
        if match is None:
            _unreadable(term)
        first, last = int(match[1]), int(match[2] or match[1])
        weight = float(match[3] or 1.0)
        if last < first or last - first >= 2**20 or not math.isfinite(weight):
            _unreadable(term)
        for latent in range(first, last + 1):
            if latent in weights:
                _unreadable(term, f"latent {latent} twice")
            weights[latent] = weight
    if not weights:
        _unreadable(text, "no latent")
    return weights


def _unreadable(term: str, found: str | None = None) -> NoReturn:
    raise BundleError(
        "latents",
        expected="numbers, spans and weights, each latent once, such as `3, 17:0.5, 100-103`",
        found=found or shown(term),
        remedy="Look up their numbers where the dictionary was published, or find them with its project's tools.",
    )


def _site(dictionary: Dictionary, written: str) -> Site:
    if written.strip():
        site = Site.parse(written.strip())
        if dictionary.site not in (None, site):
            raise BundleError(
                str(dictionary.tensors.path),
                expected=f"the site {dictionary.site}, as the name of its folder says",
                found=str(site),
                remedy="Leave the site empty, or rename the folder if its name is wrong.",
            )
        return site
    if dictionary.site is None:
        raise BundleError(
            str(dictionary.tensors.path),
            expected="a site such as double.18.image, as the file does not say where it was trained",
            found="none",
            remedy="Say the site.",
        )
    return dictionary.site
