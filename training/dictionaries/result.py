"""A trained autoencoder: its tensors as a bundle stores them, how well it does, and its file, which is a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import kernels
from ...steering.errors import SteeringError
from ...steering.formats.bundle import Bundle, open_bundle
from ...steering.formats.header import Base, BundleHeader, Made, SaeSite
from ...steering.formats.writing import write_bundle
from ...steering.sites import Site

MADE_BY = "SteerDiT's SAE training"
FIGURES = ("fvu", "l0", "dead", "steps")


@dataclass(frozen=True)
class Origin:
    """Where the activations come from, as a bundle says it."""

    site: Site
    family: str
    base: str = "not said"
    """Name of the checkpoint."""
    base_sha256: str | None = None
    license: str = "LicenseRef-unknown"
    name: str = ""
    recording: str = ""
    """Identity of the recording."""
    model: str = ""
    """Of the very model that was recorded, its fingerprint's digest; empty where that is not known."""


@dataclass(frozen=True, eq=False)
class TrainedSAE:
    """p = W_enc (s·a − b_dec) + b_enc,  z = activation(p),  â = (z W_dec + b_dec) / s."""

    encoder: Tensor
    """(N, d) float32, as all tensors here"""
    encoder_bias: Tensor
    """(N)"""
    decoder: Tensor
    """(N, d), rows of length 1"""
    decoder_bias: Tensor
    """(d)"""
    threshold: Tensor
    """(N): a latent fires above it; for topk where the latents do not compete, k on average."""
    input_scale: float
    k: int
    activation: str
    """topk, or jumprelu: what BatchTopK is at inference."""
    fvu: float
    """Of held-out activations: the fraction of variance unexplained, by the rule of inference."""
    l0: float
    """Latents that fire at a token."""
    dead: float
    """Share of latents that had not fired for long when training ended."""
    steps: int = 0
    """Steps that were made."""
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """The configuration."""
    origin: Origin | None = None
    path: Path | None = None
    """Its file, if it has one."""
    adapted: Tensor | None = None
    """(N, d): the decoder adapted to a target domain, if it was."""

    @property
    def latents(self) -> int:
        return len(self.encoder)

    @property
    def width(self) -> int:
        return self.encoder.shape[1]

    def to(self, device: torch.device | str) -> TrainedSAE:
        """The same on a device, for encoding much."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **{name: value.to(device) for name, value in tensors.items()})

    def fires(self, a: Tensor) -> kernels.Sparse:
        """The latents that fire at activations (n, d), in rising order, without a dense code of all N."""
        x = self._centred(a)
        if self.activation == "topk":
            values, indices = kernels.encode_topk(x, self.encoder, self.encoder_bias, self.k)
            indices, order = indices.masked_fill(values <= 0, self.latents).sort(dim=-1)
            values = values.gather(-1, order)
            return kernels.Sparse(values, indices * (values > 0), (values > 0).sum(-1))
        return kernels.encode_threshold(x, self.encoder, self.encoder_bias, self.threshold)

    def encode(self, a: Tensor) -> Tensor:
        """Activations (n, d) → codes (n, N), zero where a latent does not fire."""
        values, indices, _ = self.fires(a)
        return values.new_zeros(len(a), self.latents).scatter_add(1, indices, values)

    def decode(self, z: Tensor) -> Tensor:
        """Codes (n, N) → activations (n, d)."""
        return (z @ self.decoder + self.decoder_bias) / self.input_scale

    def reconstruct(self, a: Tensor) -> Tensor:
        """â (n, d) of activations (n, d), by the rows that fire alone."""
        values, indices, _ = self.fires(a)
        return kernels.decode(values, indices, self.decoder, self.decoder_bias) / self.input_scale

    def _centred(self, a: Tensor) -> Tensor:
        # The kernels take p = W x + b: the decoder's bias goes off the input here.
        return self.input_scale * a.to(self.encoder) - self.decoder_bias

    def described(self) -> SaeSite:
        """How a bundle's header describes it, as yet without categories."""
        return SaeSite(
            width=self.width,
            latents=self.latents,
            activation=self.activation,
            k=self.k,
            input_scale=self.input_scale,
        )

    def tensors(self) -> dict[str, Tensor]:
        """A bundle's tensors of the site, by their names within it."""
        return {
            "encoder": self.encoder,
            "encoder_bias": self.encoder_bias,
            "decoder": self.decoder,
            "decoder_bias": self.decoder_bias,
            "threshold": self.threshold,
            **({} if self.adapted is None else {"decoder_adapted": self.adapted}),
        }

    def report(self) -> str:
        """The figures in a few lines for people."""
        rule = f"topk {self.k}" if self.activation == "topk" else f"jumprelu, trained for {self.k}"
        where = f" at {self.origin.site}" if self.origin is not None else ""
        return (
            f"{self.latents} latents of width {self.width}{where} ({rule}), {self.steps} steps\n"
            f"FVU {self.fvu:.4f} of held-out activations, L0 {self.l0:.1f}, dead {self.dead:.1%}"
        )


def write_trained(path: Path, saes: list[TrainedSAE], name: str = "") -> Bundle:
    """Autoencoders of one model as a bundle, without categories as yet.

    Raises:
        SteeringError: they are of different models, two are of one site, or the file cannot be written.
    """
    origins = [_origin_of(sae) for sae in saes]
    first = origins[0]
    for origin, sae in zip(origins, saes):
        if (origin.family, origin.base, origin.base_sha256) != (first.family, first.base, first.base_sha256):
            raise SteeringError(
                str(path),
                expected=f"autoencoders of {first.base}",
                found=f"one of {origin.base} at {origin.site}",
                remedy="Write a bundle for each model.",
            )
        if sum(other.site == origin.site for other in origins) > 1:
            raise SteeringError(
                str(path),
                expected="each site once",
                found=f"{origin.site} again ({sae.path or 'in memory'})",
                remedy="Choose the better of the two.",
            )
    recipe = {
        str(origin.site): {
            "recording": origin.recording,
            "model": origin.model,
            "config": dict(sae.recipe),
            **{key: getattr(sae, key) for key in FIGURES},
        }
        for origin, sae in zip(origins, saes)
    }
    header = BundleHeader(
        name=name or first.name or path.stem,
        family=first.family,
        base=Base(first.base, first.base_sha256),
        license=first.license,
        made=Made(MADE_BY, recipe),
        sites={origin.site: sae.described() for origin, sae in zip(origins, saes)},
    )
    tensors = {
        f"{origin.site}.{part}": tensor
        for origin, sae in zip(origins, saes)
        for part, tensor in sae.tensors().items()
    }
    return write_bundle(path, header, tensors)


def read_trained(path: Path, site: Site | None = None) -> TrainedSAE:
    """A trained autoencoder from the bundle that `write_trained` wrote, its bytes checked against their hashes.

    Args:
        site: which, where the bundle has several.

    Raises:
        SteeringError: the file is damaged, was not trained here, or has several sites and none is named.
    """
    bundle = open_bundle(path)
    if site is None and len(bundle.sites) != 1:
        raise SteeringError(
            str(path),
            expected="one site",
            found=", ".join(map(str, bundle.sites)),
            remedy="Say which of them.",
        )
    site = next(iter(bundle.sites)) if site is None else site
    entry, said = bundle.entry(site), bundle.header.made.recipe.get(str(site))
    if bundle.header.made.by != MADE_BY or not isinstance(said, Mapping):
        raise SteeringError(
            str(path),
            expected=f"a bundle by {MADE_BY}",
            found=f"one by {bundle.header.made.by}",
            remedy="Choose the file of a training's result.",
        )
    tensors = bundle.read_sae(site)
    threshold = tensors.threshold
    return TrainedSAE(
        encoder=tensors.encoder,
        encoder_bias=tensors.encoder_bias,
        decoder=tensors.decoder,
        decoder_bias=tensors.decoder_bias,
        threshold=torch.zeros(entry.latents) if threshold is None else threshold,
        input_scale=entry.input_scale,
        k=entry.k or 0,
        activation=entry.activation,
        **{key: said[key] for key in FIGURES},
        recipe=said["config"],
        origin=Origin(
            site,
            bundle.family,
            bundle.header.base.name,
            bundle.header.base.sha256,
            bundle.header.license,
            bundle.name,
            said["recording"],
            said.get("model", ""),  # SteerDiT wrote none at first
        ),
        path=path,
        adapted=tensors.decoder_adapted,
    )


def _origin_of(sae: TrainedSAE) -> Origin:
    if sae.origin is None:
        raise SteeringError(
            "autoencoder",
            expected="one that knows its model and site",
            found="one without an origin",
            remedy="Give its Origin when it is trained.",
        )
    return sae.origin
