"""Families: how one architecture names its blocks, orders its tokens and is reached.

A family is found by the exact class of the diffusion model, because a subclass or a foreign stand-in may
order its tokens otherwise or ignore the host's hooks, and would then run unguarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor, nn

from ...steering.errors import SteeringError
from ...steering.sites import Site

FAMILIES = {
    "comfy.ldm.flux.model.Flux": "flux",
    "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper": "sd3",
    "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel": "qwen_image",
}
"""Class of the diffusion model -> module here."""


@dataclass(frozen=True)
class Layout:
    """How many tokens of each kind one model call has."""

    text: int
    """Tokens of the conditioning."""
    grid: tuple[int, int]
    """Height and width of the generated picture in tokens."""
    references: tuple[tuple[int, int], ...] = ()
    """Height and width of each reference latent in tokens, in the order in which they lie behind the picture."""

    @property
    def image(self) -> int:
        """Tokens of the generated picture."""
        return self.grid[0] * self.grid[1]

    @property
    def reference(self) -> int:
        """Tokens of reference latents."""
        return sum(height * width for height, width in self.references)


@dataclass(frozen=True)
class Span:
    """Where a block's output holds the tokens of a site."""

    output: str
    """Key of the block's outputs: `img` or `txt`."""
    start: int
    stop: int


class Family(Protocol):
    """What steering has to know about an architecture. All of it reads shapes and settings, never weights."""

    name: str

    def require(self, dit: Any) -> None:
        """A SteeringError for another architecture of the same class."""
        ...

    def sites(self, dit: Any) -> tuple[Site, ...]:
        """All sites of a run without references, in the order of a forward pass."""
        ...

    def positions(self, dit: Any) -> tuple[Site, ...]:
        """SafeDIG's functional positions (arXiv 2605.30049): where text enters, where text and image are bound, and
        where the image is rendered. Ours where the paper does not say.
        """
        ...

    def width(self, dit: Any, site: Site) -> int:
        """The size d of a site's tokens; SteeringError where this model has no such site."""
        ...

    def layout(self, dit: Any, x: Tensor, context: Tensor, references: Sequence[Tensor] = ()) -> Layout:
        """The tokens of a call with latents x (R, C, H, W), conditioning (R, T, d) and reference latents."""
        ...

    def text(self, context: Tensor) -> slice:
        """Which tokens of the conditioning the site `text` means."""
        ...

    def block(self, dit: Any, site: Site) -> nn.Module:
        """The block after which the site is; not for the site `text`."""
        ...

    def slot(self, site: Site) -> tuple[str, int]:
        """The block's key among the host's block replacements."""
        ...

    def span(self, site: Site, outputs: dict[str, Any], options: dict[str, Any], layout: Layout) -> Span:
        """Where the site's tokens are in the block's outputs; `options` are the block's transformer_options."""
        ...

    def attention_sites(self, dit: Any) -> tuple[Site, ...]:
        """The joint attention of each block, `double.1.attention`, in the order of a forward pass."""
        ...

    def joint_text(self, site: Site, inputs: dict[str, Any], layout: Layout) -> int:
        """How many tokens of text come first in the joint attention of a block with these inputs."""
        ...


def family_of(dit: Any) -> Family:
    """The family of a diffusion model, compiled or not.

    Raises:
        SteeringError: names the class where none fits, or what the model is instead.
    """
    dit = uncompiled(dit)
    kind = type(dit)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in FAMILIES:
        raise SteeringError(
            "MODEL",
            expected="one of the model classes " + ", ".join(FAMILIES),
            found=name,
            remedy="SteerDiT does not support this model, or a loader replaced the host's own class. Load the "
            "model with the host's Load Diffusion Model or Load Checkpoint node.",
        )
    family: Family = import_module(f".{FAMILIES[name]}", __name__).FAMILY
    family.require(dit)
    return family


def uncompiled(dit: Any) -> Any:
    """The diffusion model without the shell that compiling puts around it."""
    return getattr(dit, "_orig_mod", dit)


def no_such_site(family: str, site: Site, expected: str) -> SteeringError:
    """The refusal of a site that a model does not have."""
    return SteeringError(
        f"site {site}",
        expected=expected,
        found="no such place in this model",
        remedy=f"Choose other sites, or a bundle made for this {family} model.",
    )


def attention_width(family: str, site: Site, available: Sequence[Site], width: int) -> int:
    """The size h·d of an attention site's outputs; SteeringError where the model has no such site."""
    if site not in available:
        raise no_such_site(family, site, f"{available[0]} to {available[-1]}")
    return width


def grid_of(latents: Tensor, patch: int) -> tuple[int, int]:
    """Height and width in tokens of latents (R, C, H, W) or (R, C, 1, H, W).

    Odd sizes are rounded up to whole patches, as the host pads them.
    """
    height, width = (-(-size // patch) for size in latents.shape[-2:])
    return height, width


def require_pictures(latents: Tensor) -> None:
    """Refuses latents of videos, and of anything else but pictures (R, C, H, W)."""
    if latents.ndim != 4:
        raise SteeringError(
            "LATENT",
            expected="latents of pictures, (B, C, H, W)",
            found=str(tuple(latents.shape)),
            remedy="Use an empty latent of pictures, made for this model.",
        )


def require_count(site: Site, expected: Sequence[int], available: int) -> None:
    """Refuses a sequence with more or fewer tokens than the call has: ours may have moved in it."""
    if available not in expected:
        raise _other_tokens(site, f"{' or '.join(map(str, dict.fromkeys(expected)))} tokens", available)


def require_tokens(site: Site, start: int, stop: int, available: int) -> None:
    """Refuses a span that the block's output does not hold: its tokens are in an order we do not know."""
    if not 0 <= start <= stop <= available:
        raise _other_tokens(site, f"at least {stop} tokens", available)


def _other_tokens(site: Site, expected: str, available: int) -> SteeringError:
    return SteeringError(
        f"site {site}",
        expected=expected,
        found=f"{available}",
        remedy="Another node changes how many tokens the model sees. Steer without it.",
    )
