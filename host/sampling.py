"""Sampling many prompts at once, for recording and for evaluation: prompts of equal length share a batch.

The host repeats one conditioning over a batch of noise, but it as well takes a conditioning that already has a row for
each picture. Rows of a batch do not see each other, so a picture depends on its prompt and its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ..steering.errors import SteeringError


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled; names of samplers and schedulers are the host's, sizes are in latents, not pixels."""

    steps: int = 20
    cfg: float = 3.0
    """Classifier-free guidance; at 1 the negative prompt is not computed."""
    sampler: str = "euler"
    scheduler: str = "simple"
    size: tuple[int, int] = (16, 16)
    """Height and width of the latent."""
    channels: int = 16
    """Of the latent."""
    guidance: float | None = None
    """FLUX's distilled guidance; None leaves it to the host."""


def samplers() -> list[str]:
    """The samplers that this host has."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    """The schedulers that this host has."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def sampling_for(model: Any, height: int, width: int, **settings: Any) -> Sampling:
    """How to sample pictures of so many pixels from a model.

    Raises:
        SteeringError: the model makes no such pictures, or the host lacks the sampler or the scheduler.
    """
    latents = model.get_model_object("latent_format")
    ratio = getattr(latents, "spacial_downscale_ratio", 8)
    for name, size in (("height", height), ("width", width)):
        if size % ratio:
            raise SteeringError(
                name,
                expected=f"pixels in multiples of {ratio}",
                found=f"{size}",
                remedy=f"Choose {size // ratio * ratio or ratio}.",
            )
    sampling = Sampling(size=(height // ratio, width // ratio), channels=latents.latent_channels, **settings)
    for name, known in (
        ("sampler", samplers()),
        ("scheduler", schedulers()),
    ):
        if getattr(sampling, name) not in known:
            raise SteeringError(
                name,
                expected=f"one of {', '.join(known)}",
                found=repr(getattr(sampling, name)),
                remedy="Choose one that this host has.",
            )
    return sampling


def noise_levels(model: Any, sampling: Sampling) -> tuple[float, ...]:
    """The sampler's schedule: each noise level once, falling, without the last 0."""
    sampler = comfy.samplers.KSampler(
        model, sampling.steps, model.load_device, sampling.sampler, sampling.scheduler
    )
    return tuple(sorted({float(sigma) for sigma in sampler.sigmas[:-1]} - {0.0}, reverse=True))


Encoded = tuple[Tensor, "Tensor | None"]
"""Token states (1, L, C) and pooled state (1, P) of a prompt; None where its model takes none, as Qwen-Image."""


def encode_prompts(clip: Any, prompts: Sequence[str]) -> list[Encoded]:
    """The states of each prompt, by the host's CLIP object.

    Raises:
        SteeringError: the text encoder hides some tokens from the model, which a batch of prompts cannot.
    """
    known: dict[str, Encoded] = {}
    for prompt in prompts:
        if prompt not in known:
            tokens, extra = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0]
            seen = extra.get("attention_mask")
            if seen is not None and not bool(torch.as_tensor(seen).all()):
                raise SteeringError(
                    "text encoder",
                    expected="tokens that the model sees, all of them",
                    found=f"an attention mask that hides some of {prompt[:60]!r}",
                    remedy="Use the text encoder that ComfyUI loads for this model, without padding.",
                )
            known[prompt] = tokens, extra.get("pooled_output")
    return [known[prompt] for prompt in prompts]


def batches(encoded: Sequence[Encoded], size: int) -> Iterator[list[int]]:
    """Numbers of prompts that have the same count of tokens, at most ``size`` together."""
    by_length: dict[int, list[int]] = {}
    for i, (tokens, _) in enumerate(encoded):
        by_length.setdefault(tokens.shape[1], []).append(i)
    for same in by_length.values():
        yield from (same[at : at + size] for at in range(0, len(same), size))


def noise(seeds: Sequence[int], sampling: Sampling, *, counted: bool = False) -> Tensor:
    """(B, C, H, W): each picture's own noise, whatever batch it stands in.

    Args:
        counted: (B, C, 1, H, W), for models whose latents count pictures, as those of videos and Qwen-Image do.
    """
    shape = (1, sampling.channels, *((1,) if counted else ()), *sampling.size)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def sample_prompts(
    model: Any,
    encoded: Sequence[Encoded],
    negative: Encoded,
    seeds: Sequence[int],
    sampling: Sampling = Sampling(),
    batch: int = 16,
    announce: list[int] | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
    references: Sequence[Tensor] = (),
    stop: int | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Generates a latent for each prompt and seed → (numbers of the prompts, latents (b, C, H, W)), batch by batch.

    Latents are (b, C, 1, H, W) where the model's count pictures.
    ``announce`` is filled with the numbers of a batch before it is sampled, for who records by picture. ``watch`` hears
    at each step its number and the clean latents (b, C, H, W) that the model predicts there. ``references``: for models
    that edit, what each prompt is to edit: a latent (C, H, W) each, as a VAE gives it, all of one size; the negative
    prompt sees it too, as behind *Set Reference Latent*. ``stop`` ends after so many steps; latents are noisy then.
    """

    def heard(step: int, clean: Tensor, noisy: Tensor, steps: int) -> None:
        if watch is not None:
            watch(step, clean)

    counted = model.get_model_object("latent_format").latent_dimensions == 3
    for numbers in batches(encoded, batch):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if announce is not None:
            announce[:] = numbers
        tokens, pooled = torch.cat([encoded[i][0] for i in numbers]), [encoded[i][1] for i in numbers]
        of_all = torch.cat([one for one in pooled if one is not None]) if None not in pooled else None
        extra: dict[str, Any] = {} if sampling.guidance is None else {"guidance": sampling.guidance}
        if references:
            extra["reference_latents"] = [torch.stack([references[i] for i in numbers])]
        start = noise([seeds[i] for i in numbers], sampling, counted=counted)
        latents = comfy.sample.sample(
            model, start, sampling.steps, sampling.cfg, sampling.sampler, sampling.scheduler,
            [[tokens, {"pooled_output": of_all, **extra}]],
            [[negative[0], {"pooled_output": negative[1], **extra}]],
            torch.zeros_like(start), last_step=stop, callback=heard, disable_pbar=True, seed=seeds[numbers[0]],
        )  # fmt: skip
        yield numbers, latents


def sample_latent(
    model: Any,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Any,
    negative: Any,
) -> dict[str, Any]:
    """What the host's KSampler makes of a LATENT with these settings."""
    import nodes

    return nodes.common_ksampler(
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent
    )[0]
