"""Bundles: opening one reads its header, steering with it reads only the rows it needs. writing.py writes them.

A bundle is a safetensors file whose metadata holds `steerdit` (the header, see header.py) and
`steerdit_sha256` (its digest, so that a flipped bit in a threshold is noticed before any picture is made).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BundleError
from ..flow.anchors import Anchors
from ..sites import Site
from .anchors import AnchorSite
from .container import Container, TensorSpan, chunks, read_container, sha256_of
from .directions import DirectionSite
from .fields import DAMAGED, listed, shown
from .header import READ_DTYPES, BundleHeader, SaeSite, TensorRecord, parse_header
from .match import require_match
from .rows import DTYPES, OpenContainer, require_finite, require_rows

KEY = "steerdit"
DIGEST_KEY = "steerdit_sha256"

HASHED_AT_ONCE = 256 * 2**20
"""Bytes of a site's tensors up to which they are all checked before rows are read: a fraction of a second, once."""
HASHED_ALWAYS = 4 * 2**20
"""Bytes of a tensor up to which it is checked however large the others are."""

_sound: set[tuple[str, tuple[int, int], str, str]] = set()
"""Tensors that were checked: file, stamp, name, sha256."""

TORCH_DTYPES: Mapping[str, torch.dtype] = {name: DTYPES[name] for name in READ_DTYPES}


class LatentTensors(NamedTuple):
    """S latents of one site, in float32 on the CPU whatever dtype the file stores."""

    indices: tuple[int, ...]
    """(S) rows of the dictionary, in the order asked for."""
    encoder: Tensor
    """(S, d)"""
    encoder_bias: Tensor
    """(S)"""
    decoder: Tensor
    """(S, d)"""
    decoder_bias: Tensor
    """(d)"""
    threshold: Tensor | None
    """(S), with jumprelu; with topk where the bundle was calibrated to fire without its competitors; else None"""
    decoder_adapted: Tensor | None
    """(S, d), where the bundle has an adapted decoder for Blend"""


class DirectionTensors(NamedTuple):
    """The directions of one site, in float32 on the CPU whatever dtype the file stores."""

    vectors: Tensor
    """(C, d)"""
    mean: Tensor
    """(d) of benign tokens"""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its header in memory, its tensors on disk."""

    header: BundleHeader
    tensors: Mapping[str, TensorRecord]
    container: Container

    @property
    def path(self) -> Path:
        return self.container.path

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def identity(self) -> str:
        """The same for bundles of the same content."""
        return self.container.metadata[DIGEST_KEY]

    @property
    def family(self) -> str:
        return self.header.family

    @property
    def sites(self) -> Mapping[Site, SaeSite]:
        return self.header.sites

    @property
    def directions(self) -> Mapping[Site, DirectionSite]:
        return self.header.directions

    @property
    def anchors(self) -> Mapping[Site, AnchorSite]:
        """At attentions; the first is where unsafe content was found best."""
        return self.header.anchors

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of all categories of latents at any site, in the order of the header."""
        return tuple(dict.fromkeys(name for site in self.sites.values() for name in site.categories))

    def read_latents(self, site: Site, latents: Sequence[int] | None = None) -> LatentTensors:
        """Some latents' rows, and no others, from the file.

        Args:
            site: one of `sites`.
            latents: rows (S), each once, in any order; None means all N.

        Raises:
            BundleError: the site or a latent is not in the bundle, a value is not finite, the file changed or is
                damaged. Of a small dictionary every byte is held against the header's hashes. Of a large one only the
                vectors are, as reading the rest would take seconds; there a row of zeros is refused.
        """
        entry = self.entry(site)
        indices = tuple(range(entry.latents)) if latents is None else tuple(int(latent) for latent in latents)
        outside = [latent for latent in indices if not 0 <= latent < entry.latents]
        if outside or len(set(indices)) != len(indices):
            raise BundleError(
                f"{self.path}: {site}",
                expected=f"latents from 0 to {entry.latents - 1}, each once",
                found=shown(outside or list(indices)),
                remedy="Ask for latents that the bundle's categories list.",
            )
        sizes = {name: span.stop - span.start for name, span in self.of_site(site).items()}
        all_of_it = latents is None or sum(sizes.values()) <= HASHED_AT_ONCE
        for name, size in sizes.items():
            if all_of_it or size <= HASHED_ALWAYS:
                self.check_once(name)
        with OpenContainer(self.container) as file:

            def rows(part: str) -> Tensor:
                found = self._finite(site, part, file.rows(f"{site}.{part}", indices).float())
                if not all_of_it and found.ndim == 2:
                    require_rows(f"{self.path}: {site}.{part}", found, indices)
                return found

            def optional_rows(part: str) -> Tensor | None:
                return rows(part) if f"{site}.{part}" in self.tensors else None

            return LatentTensors(
                indices,
                encoder=rows("encoder"),
                encoder_bias=rows("encoder_bias"),
                decoder=rows("decoder"),
                decoder_bias=self._finite(site, "decoder_bias", file.whole(f"{site}.decoder_bias").float()),
                threshold=optional_rows("threshold"),
                decoder_adapted=optional_rows("decoder_adapted"),
            )

    def read_sae(self, site: Site) -> LatentTensors:
        """All N latents of a site, after checking their bytes against the header's hashes."""
        return self.read_latents(site)

    def read_directions(self, site: Site) -> DirectionTensors:
        """The directions of a site, after checking their bytes against the header's hashes.

        Raises:
            BundleError: the bundle has none there, a value is not finite, the file changed.
        """
        if site not in self.directions:
            raise BundleError(
                str(self.path),
                expected=f"directions at {', '.join(map(str, self.directions)) or 'some site'}",
                found=f"{site}, where there are none",
                remedy="Choose a site at which the bundle holds directions, or another bundle.",
            )
        parts = self._parts(site, self.directions[site].tensor_shapes())
        return DirectionTensors(parts["direction"], parts["direction_mean"])

    def read_anchors(self, site: Site) -> Anchors:
        """The anchors at an attention, after checking their bytes against the header's hashes.

        Raises:
            BundleError: the bundle has none there, a value is not finite, the file changed.
        """
        if site not in self.anchors:
            raise BundleError(
                str(self.path),
                expected=f"anchors at {', '.join(map(str, self.anchors)) or 'some attention'}",
                found=f"{site}, where there are none",
                remedy="Choose an attention at which the bundle holds anchors, or another bundle.",
            )
        entry = self.anchors[site]
        parts = self._parts(site, entry.tensor_shapes())
        return Anchors(
            site,
            entry.concepts,
            means=parts["anchor"],
            contrasts=parts.get("anchor_contrast"),
            offsets=parts.get("anchor_offset"),
            benign=parts.get("anchor_benign"),
        )

    def _parts(self, site: Site, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors of a site, checked, in float32."""
        parts: dict[str, Tensor] = {}
        for part in names:
            self.check(f"{site}.{part}")
            with OpenContainer(self.container) as file:
                parts[part] = self._finite(site, part, file.whole(f"{site}.{part}").float())
        return parts

    def of_site(self, site: Site) -> dict[str, TensorSpan]:
        """The tensors of a site."""
        return {
            name: span
            for name, span in self.container.tensors.items()
            if name.rpartition(".")[0] == str(site)
        }

    def check_once(self, name: str) -> None:
        """`check`, unless this tensor of the file as it is now was found sound before."""
        key = str(self.path), self.container.stamp, name, self.tensors[name].sha256
        if key not in _sound:
            self.container.unchanged()
            self.check(name)
            self.container.unchanged()
            _sound.add(key)

    def check(self, name: str) -> None:
        """Refuses if a tensor's bytes are not those that were written."""
        found = sha256_of(chunks(self.path, self.container.tensors[name]))
        if found != self.tensors[name].sha256:
            raise BundleError(
                f"{self.path}: {name}",
                expected=f"bytes with sha256 {self.tensors[name].sha256}",
                found=found,
                remedy=DAMAGED,
            )

    def entry(self, site: Site) -> SaeSite:
        """The description of one of `sites`, or a refusal that lists them."""
        if site not in self.sites:
            raise BundleError(
                str(self.path),
                expected=f"one of the sites {', '.join(map(str, self.sites))}",
                found=str(site),
                remedy="Choose a site that the bundle holds, or another bundle.",
            )
        return self.sites[site]

    def _finite(self, site: Site, part: str, values: Tensor) -> Tensor:
        return require_finite(f"{self.path}: {site}.{part}", values)


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Opens a bundle: reads and checks its header against the file's own table of tensors, and nothing else.

    Raises:
        BundleError: names the file, the field, what was expected, what was found and what to do.
    """
    return interpret(read_container(path), str(path))


def interpret(container: Container, file: str) -> Bundle:
    """The bundle that a container holds, checked as by `open_bundle`; `file` names it in refusals."""
    if KEY not in container.metadata:
        other = listed(container.metadata) or "none"
        raise BundleError(
            file,
            expected=f"a SteerDiT bundle (metadata with the key {KEY!r})",
            found=f"{len(container.tensors)} tensors and the metadata keys: {other}",
            remedy="Choose a bundle; a model or LoRA is not one, and a plain SAE file goes into Import SAE.",
        )
    text = container.metadata[KEY]
    digest = container.metadata.get(DIGEST_KEY)
    actual = sha256_of([text.encode(errors="replace")])
    if digest != actual:
        raise BundleError(
            f"{file}: {DIGEST_KEY}",
            expected=f"the header's digest {actual}",
            found=shown(digest),
            remedy=f"{DAMAGED} A header is not edited by hand: write the bundle anew.",
        )
    header, tensors = parse_header(text, file)
    require_match(file, header, tensors, container)
    return Bundle(header, tensors, container)


def verify(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> Bundle:
    """Reads a whole bundle: every hash must match and every number be finite.

    Args:
        progress: called with (bytes read, bytes in all).
    """
    bundle = open_bundle(path)
    total = sum(span.stop - span.start for span in bundle.container.tensors.values())
    done = 0
    for name, span in bundle.container.tensors.items():
        bundle.check(name)
        for piece in chunks(bundle.path, span):
            values = torch.frombuffer(bytearray(piece), dtype=TORCH_DTYPES[span.dtype])
            require_finite(f"{bundle.path}: {name}", values)
            done += len(piece)
            if progress is not None:
                progress(done, total)
    return bundle
