"""Prompts sampled once, so that masks of their pictures can be made; and again, for what passes inside the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...host.attach import attach, diffusion_model
from ...host.families import family_of
from ...host.sampling import Sampling, encode_prompts, noise_levels, sample_prompts
from ...steering.errors import SteeringError
from ...steering.finite import all_finite
from ...steering.flow.shares import ShareRecorder
from ...steering.flow.watching import OutputWatcher, Seen
from ...steering.plan import Entry
from ...steering.sites import Site
from ..recordings import PromptRow
from ..recordings.categories import category_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Example:
    """One picture that is to be made."""

    text: str
    seed: int
    concept: str | None
    """What is unsafe in it; None: nothing is."""


def examples_of(rows: Sequence[PromptRow], seeds: Iterable[int]) -> tuple[Example, ...]:
    """Each prompt with each seed; unsafe ones are of their category, or of `unsafe` where they name none.

    Raises:
        SteeringError: no prompt is unsafe.
    """
    seeds = list(seeds)
    found = tuple(Example(row.text, seed, category_of(row)) for row in rows for seed in seeds)
    if not any(example.concept for example in found):
        raise SteeringError(
            "prompts",
            expected="some of the label unsafe",
            found=f"{len(found)} pictures, none of them unsafe",
            remedy="Label unsafe prompts `unsafe`, and give each its category.",
        )
    return found


def _required(reference: Tensor, channels: int) -> Tensor:
    """A reference latent (C, H, W) that a model of so many channels can be given."""
    fits = reference.ndim == 3 and reference.shape[0] == channels and reference.numel() > 0
    if not fits or not all_finite(reference):
        raise SteeringError(
            "references",
            expected=f"latents of {channels} channels, height and width, one for each prompt",
            found="NaN or infinite numbers" if fits else str(list(reference.shape)),
            remedy="Encode the pictures with this model's VAE.",
        )
    return reference


class Sampler:
    """Examples of one model, sampled as often as they are asked for, each time alike.

    Args:
        references: for models that edit, what each example is to edit: a latent (C, H, W) each.

    Raises:
        SteeringError: SteerDiT does not know the family, or it is given no references here.
    """

    def __init__(
        self,
        model: Any,
        clip: Any,
        examples: Sequence[Example],
        sampling: Sampling,
        *,
        negative: str = "",
        batch: int = 4,
        references: Sequence[Tensor] = (),
    ) -> None:
        family = family_of(diffusion_model(model)).name
        if references and family != "flux":
            raise SteeringError(
                "references",
                expected="a model of flux that edits, such as FLUX.1 Kontext",
                found=family,
                remedy="Leave them out, or load one that edits. Qwen-Image-Edit wants its references in the text, too: "
                "connect a MASK to Restrict Flow.",
            )
        self.model, self.family, self.examples, self.sampling, self.batch = (
            model,
            family,
            tuple(examples),
            sampling,
            batch,
        )
        self.references = [_required(one, sampling.channels) for one in references]
        self.sigmas = noise_levels(model, sampling)
        """Falling."""
        *self._encoded, self._negative = encode_prompts(
            clip, [*(example.text for example in examples), negative]
        )

    def latents(self, progress: Progress | None = None, among: Sequence[int] | None = None) -> Tensor:
        """(n, C, H, W): the pictures, in the order of the examples, or of the numbers of those that are asked for.

        Qwen-Image's are (n, C, 1, H, W).
        """
        chosen = range(len(self.examples)) if among is None else among
        found: dict[int, Tensor] = {}
        for numbers, made in self._sample(self.model, chosen, [], progress):
            found.update(zip(numbers, made.float().cpu()))
        return torch.stack([found[number] for number in chosen])

    def watch(
        self,
        sites: Sequence[Site],
        take: Callable[[int, Seen], None],
        *,
        keeps: Callable[[float], bool] = lambda sigma: True,
        among: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Samples examples again and hands on what passes attention: (number of the example, what was seen).

        Args:
            keeps: whether visits at a noise level are handed on; no step is made after the last of them.
            among: numbers of the examples; None is all of them.
        """
        chosen = range(len(self.examples)) if among is None else list(among)
        current: list[int] = []
        watcher = OutputWatcher(lambda seen: take(chosen[current[seen.image]], seen), keeps)
        watched = attach(self.model, [Entry(site, watcher) for site in sites])
        steps = [step for step, sigma in enumerate(self.sigmas) if keeps(sigma)]
        for _ in self._sample(watched, chosen, current, progress, stop=max(steps, default=0) + 1):
            pass

    def _sample(
        self,
        model: Any,
        chosen: Sequence[int],
        current: list[int],
        progress: Progress | None,
        stop: int | None = None,
    ) -> Any:
        done = 0
        for numbers, made in sample_prompts(
            model,
            [self._encoded[number] for number in chosen],
            self._negative,
            [self.examples[number].seed for number in chosen],
            self.sampling,
            self.batch,
            announce=current,
            references=[self.references[number] for number in chosen] if self.references else (),
            stop=stop,
        ):
            done += len(numbers)
            if progress is not None:
                progress(done, len(chosen))
            yield [chosen[number] for number in numbers], made

    def shares(
        self, sites: Sequence[Site], among: Sequence[int], progress: Progress | None = None
    ) -> ShareRecorder:
        """Samples some examples again and sees where their attention goes."""
        recorder = ShareRecorder()
        watched = attach(self.model, [Entry(site, recorder) for site in sites])
        for _ in self._sample(watched, list(among), [], progress):
            pass
        return recorder
