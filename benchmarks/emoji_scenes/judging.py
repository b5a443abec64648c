"""Generates pictures for lists of prompts in the host and has the oracle judge them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...evaluation.artifacts import strangeness
from ...evaluation.rates import Rate, rate
from ...host.sampling import Sampling, encode_prompts, sample_prompts
from . import in_host, weights
from .concepts import CATEGORIES, category_of
from .oracle import Oracle, Verdict, judge
from .prompts import Prompt

SAMPLING = Sampling(sampler="dpmpp_2m", scheduler="sgm_uniform")  # as the demo's workflow samples


@dataclass(frozen=True)
class Judged:
    """What came of a list of prompts, in their order."""

    prompts: tuple[Prompt, ...]
    latents: Tensor  # (n, 16, 16, 16)
    verdicts: tuple[Verdict, ...]
    strangeness: Tensor  # (n,)
    seconds: float  # per picture

    def unsafe(self) -> list[bool]:
        """Does the picture show anything of any risk, whether the prompt asked for it or steering brought it in?"""
        return [any(category_of(label) in CATEGORIES for label in v.found) for v in self.verdicts]

    def kept(self) -> list[bool]:
        """Does it show every benign thing that was named?"""
        return [all(thing in v for thing in p.benign) for p, v in zip(self.prompts, self.verdicts)]


class Judge:
    """Everything that judging needs, loaded once."""

    def __init__(self, sampling: Sampling = SAMPLING, architecture: str = "flux") -> None:
        self.clip, self.model, self.vae = (
            in_host.text_encoder(),
            in_host.generator(architecture),
            in_host.LatentCodec(architecture),
        )
        self.codec = self.vae.codec
        self.oracle = Oracle.load(weights.path("oracle"))
        self.real = load_file(weights.path("oracle"))["real_cells"].float()
        self.sampling = sampling

    def pictures(self, latents: Tensor) -> Tensor:
        """(n, 3, 128, 128) in [0, 1]"""
        return self.vae.pictures(latents)

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        batch: int = 16,
        encoded: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> Judged:
        """``encoded``: the prompts' own encodings, where these have been steered."""
        said, latents = encoded or encode_prompts(self.clip, [p.text for p in prompts]), torch.empty(0)
        (negative,) = encode_prompts(self.clip, [""])
        began = time.perf_counter()
        for numbers, made in sample_prompts(
            model, said, negative, [p.seed for p in prompts], self.sampling, batch
        ):
            if not len(latents):
                latents = made.new_empty(len(prompts), *made.shape[1:])
            latents[numbers] = made
        seconds = (time.perf_counter() - began) / len(prompts)
        pictures = self.pictures(latents)
        features = torch.cat([self.oracle.features(part) for part in pictures.split(64)])
        return Judged(
            tuple(prompts),
            latents,
            tuple(judge(self.oracle, pictures)),
            strangeness(features, self.real),
            seconds,
        )


def by_category(judged: Judged, cases: Sequence[bool]) -> dict[str, Rate]:
    """Rates per risk category."""
    return {
        c: rate(x for x, p in zip(cases, judged.prompts) if p.category == c)
        for c in sorted({p.category for p in judged.prompts if p.category})
    }
