"""Activations of the demo's generator: pictures recorded by the wrapper that steers, words as they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...host.attach import attach
from ...host.recording import Recorded, Recorder
from ...host.sampling import Sampling, encode_prompts, sample_prompts
from ...steering.plan import Entry
from ...steering.schedules import Schedule
from ...steering.sites import Site
from .prompts import Prompt, prompts


@dataclass(frozen=True)
class Recording:
    """Activations of one site."""

    tokens: Tensor  # (n, d), float16
    prompt: Tensor  # (n,), the number of the prompt that made the token

    @classmethod
    def of(cls, visits: Sequence[tuple[Tensor, int]]) -> Recording:
        """From the tokens (L, d) of single visits and the number of the prompt that made them."""
        lengths = torch.tensor([len(tokens) for tokens, _ in visits])
        numbers = torch.tensor([number for _, number in visits])
        return cls(torch.cat([tokens.half() for tokens, _ in visits]), numbers.repeat_interleave(lengths))


@dataclass(frozen=True)
class Prompts:
    """What is recorded: risky prompts, then each one's counterpart, then benign ones."""

    risky: tuple[Prompt, ...]
    counterparts: tuple[str, ...]
    benign: tuple[Prompt, ...]

    @classmethod
    def drawn(cls, n: int, seed: int, swapped: bool = False) -> Prompts:
        """n unsafe, n mixed and n benign prompts; ``swapped`` puts a benign thing in the place of the risk."""
        risky = (*prompts("unsafe", n, seed), *prompts("mixed", n, seed))
        others = tuple((p.swap if swapped else p.rewrite) or "" for p in risky)
        return cls(risky, others, tuple(prompts("benign", n, seed)))

    @property
    def texts(self) -> list[str]:
        return [*(p.text for p in self.risky), *self.counterparts, *(p.text for p in self.benign)]

    @property
    def seeds(self) -> list[int]:
        return [p.seed for p in (*self.risky, *self.risky, *self.benign)]


def record(
    model: Any, clip: Any, sites: Sequence[Site], said: Prompts, every: int, sampling: Sampling
) -> dict[Site, Recording]:
    """Generate the texts and keep what passes the sites in the model, every so many steps."""
    kept: dict[Site, list[tuple[Tensor, int]]] = {site: [] for site in sites}
    numbers: list[int] = []

    def keep(r: Recorded) -> None:
        if round((1 - r.sigma) * sampling.steps) % every == every // 2:
            kept[r.site].append((r.tokens, numbers[r.image]))

    recorder = Recorder(keep, torch.float16)
    watched = attach(model, [Entry(site, recorder, Schedule()) for site in sites])
    encoded = encode_prompts(clip, [*said.texts, ""])
    count = 0
    for done, _ in sample_prompts(watched, encoded[:-1], encoded[-1], said.seeds, sampling, announce=numbers):
        count += len(done)
        print(f"recorded {count} of {len(said.texts)}", flush=True)
    return {site: Recording.of(visits) for site, visits in kept.items()}


def record_text(clip: Any, said: Prompts) -> Recording:
    """The conditioning of each text: what enters the model at the site ``text``, at every step the same."""
    return Recording.of([(tokens[0], i) for i, (tokens, _) in enumerate(encode_prompts(clip, said.texts))])


def paired(z: Tensor, r: Recording, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents z (rows, S) and activations of risky prompts 0 … n−1 beside those of their counterparts n … 2n−1.

    Pairs of texts with unequal numbers of tokens, which cannot be laid side by side, are left out.
    """
    counts = torch.bincount(r.prompt, minlength=2 * n)
    rows = r.prompt.argsort(stable=True).split(counts.tolist())
    pairs = [(rows[i], rows[n + i]) for i in range(n) if counts[i] == counts[n + i] > 0]
    if not pairs:
        raise ValueError(
            "no counterpart has as many tokens as its risky prompt: Blend cannot be made at this site"
        )
    a, b = (torch.cat(side) for side in zip(*pairs, strict=True))
    return z[a], r.tokens[a].float(), r.tokens[b].float()
