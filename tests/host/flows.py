"""Tiny random models with two heads for what happens in attention, and modifiers that watch it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import comfy.sample
import torch
from comfy.ldm.flux.model import FluxParams
from torch import Tensor

from steerdit.host.attach import attach, diffusion_model
from steerdit.host.families import family_of
from steerdit.steering import Entry, Site
from steerdit.steering.flow.step import Attend, FlowStep

from . import slots, tiny

FAMILIES = ("flux", "sd3", "qwen_image")
HEADS = {"flux": 2, "sd3": 3, "qwen_image": 2}
TWO_HEADS = {
    "flux": {"hidden_size": 256, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "context_in_dim": 48},
    "qwen_image": {"num_attention_heads": 2},
}
REFERENCE_METHODS = {
    "flux": ("offset", "index", "uxo", "index_timestep_zero"),
    "qwen_image": ("index", "negative_index", "offset", "index_timestep_zero"),
}
GRID = (3, 5)
TEXT = {"flux": 7, "sd3": 83, "qwen_image": 9}


def model_of(family: str, folder: Path, seed: int = 0) -> Any:
    """A MODEL of two double and two single blocks (FLUX), three joint blocks (SD3) or two (Qwen-Image)."""
    if family == "sd3":
        return tiny.tiny("sd3", folder, seed)
    kind = slots.FAMILIES[family]
    settings = {**kind.settings, **TWO_HEADS[family]}
    if family == "flux":  # older hosts know fewer settings
        known = {one.name for one in dataclasses.fields(FluxParams)}
        settings = {name: value for name, value in settings.items() if name in known}
    # By its settings: older hosts take every FLUX for one of 24 heads.
    model = slots.model_from(kind._replace(settings=settings), seed)
    for name, weight in model.model.diffusion_model.named_parameters():
        if "norm" in name:
            weight.data += 1
    return model


def prompt(family: str, seed: int, tokens: int | None = None, **extra: Any) -> list[Any]:
    """A CONDITIONING of random text states; Qwen-Image's has an attention mask."""
    if family == "qwen_image":
        more = 0 if tokens is None else tokens - TEXT[family]
        ((states, beside),) = slots.prompt(family, seed, more=more)
        return [[states, {**beside, **extra}]]
    return tiny.prompt(family, seed, tokens, **extra)


def start(family: str, batch: int = 1, size: tuple[int, int] | None = None, seed: int = 5) -> Tensor:
    """Latent noise, of an oblong picture whose sides are padded to whole patches."""
    height, width = size or (2 * GRID[0] - 1, 2 * GRID[1] - 1)
    shape = (batch, 16, 1, height, width) if family == "qwen_image" else (batch, 16, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(family: str, height: int, width: int, seed: int) -> Tensor:
    """A reference latent of so many latent pixels."""
    return start(family, 1, (height, width), seed)


def sample(
    model: Any,
    positive: Any,
    negative: Any,
    noise: Tensor,
    *,
    cfg: float = 1.0,
    steps: int = 2,
    sampler: str = "euler",
) -> Tensor:
    """What the host's KSampler node does."""
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "simple", positive, negative, torch.zeros_like(noise), seed=5,
        disable_pbar=True,
    )  # fmt: skip


class Visit(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    step: FlowStep
    out: Tensor


@dataclass(frozen=True, eq=False)
class Watcher:
    """Changes nothing, or what `change` makes of it; keeps what it saw."""

    change: Callable[[Attend, Tensor, Tensor, Tensor, FlowStep], Tensor] | None = None
    visits: list[Visit] = field(default_factory=list[Visit])

    def wants(self, *_: Any) -> bool:
        return True

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        out = attend(q, k, v, step.mask) if self.change is None else self.change(attend, q, k, v, step)
        self.visits.append(Visit(q.clone(), k.clone(), v.clone(), step, out.clone()))
        return out


def attention_sites(model: Any) -> tuple[Site, ...]:
    dit = diffusion_model(model)
    return family_of(dit).attention_sites(dit)


def with_flow(model: Any, modifier: Any, sites: Iterable[Site] | None = None) -> Any:
    """The MODEL with a modifier of attention, at all its sites if none are named."""
    return attach(model, [Entry(site, modifier) for site in sites or attention_sites(model)])


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention in float64, (R, h, n, d) → (R, n, h·d): what everything is compared with."""
    weights = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        weights = weights + mask.double()
    return (weights.softmax(-1) @ v.double()).transpose(1, 2).flatten(2)
