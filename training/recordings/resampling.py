"""Makes samples of a recording again, as they were made: for what a recording does not hold, such as the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...host.attach import diffusion_model
from ...host.families import family_of
from ...host.fingerprint import fingerprint
from ...host.sampling import noise_levels, sample_prompts
from ...steering.errors import SteeringError
from .reader import Recording
from .run import Encoder, sampling_of


class Resampler:
    """The samples of a recording, made anew.

    Args:
        model: the ModelPatcher that was recorded.

    Raises:
        SteeringError: it is another model, or the host cannot sample as it did.
    """

    def __init__(self, model: Any, encoder: Encoder, recording: Recording) -> None:
        manifest = recording.manifest
        family, digest = fingerprint(model)
        if (family, digest) != (manifest.model.family, manifest.model.digest):
            raise SteeringError(
                f"{recording.folder}: model",
                expected=f"the model that was recorded ({manifest.model.family} {manifest.model.digest[:12]}…)",
                found=f"another ({family} {digest[:12]}…)",
                remedy="Connect the very model, with the patches that it had.",
            )
        self.model, self.encoder, self.recording = model, encoder, recording
        self.sampling = sampling_of(model, manifest.settings)
        self.sigmas = noise_levels(model, self.sampling)
        self._encoded: dict[str, tuple[Tensor, Tensor]] = {}

    def encoded(self, text: str) -> tuple[Tensor, Tensor]:
        """The conditioning (1, L, C) and the pooled state (1, P) of a text."""
        if text not in self._encoded:
            self._encoded[text] = self.encoder.encode(text)
        return self._encoded[text]

    @torch.inference_mode()  # as the host runs its nodes
    def make(
        self,
        numbers: Sequence[int],
        model: Any = None,
        watch: Callable[[int, Sequence[int], Tensor], None] | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Samples by their numbers in the recording → (numbers, latents (b, C, H, W)), batch by batch.

        Args:
            model: samples with another ModelPatcher, such as the steered one.
            watch: hears at each step its number, the samples' numbers, and the predicted clean latents (b, C, H, W).
        """
        said = [self.recording.manifest.samples[number] for number in numbers]
        announced: list[int] = []

        def heard(step: int, clean: Tensor) -> None:
            if watch is not None:
                watch(step, [numbers[i] for i in announced], clean)

        settings = self.recording.manifest.settings
        batches = sample_prompts(
            self.model if model is None else model,
            [self.encoded(sample.text) for sample in said],
            self.encoded(settings.negative),
            [sample.seed for sample in said],
            self.sampling,
            settings.batch,
            announced,
            heard,
        )
        for places, latents in batches:
            yield [numbers[i] for i in places], latents

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of a picture in tokens."""
        dit = diffusion_model(self.model)
        empty = torch.empty(1, 0, 0)
        return family_of(dit).layout(dit, torch.empty(1, 0, *self.sampling.size), empty).grid

    def latents(self, numbers: Sequence[int], model: Any = None) -> Tensor:
        """The finished latents (n, C, H, W) in the order of the numbers, on the CPU."""
        found: dict[int, Tensor] = {}
        for places, latents in self.make(numbers, model):
            found.update(zip(places, latents.cpu()))
        return torch.stack([found[number] for number in numbers])

    def predicted(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The clean latents that the model predicts on its way, averaged by bucket of noise levels.

        Returns:
            (n, B, C·H·W) on the CPU, and (n, B) bool: a step has a noise level of that bucket.
        """
        buckets = len(self.recording.manifest.settings.buckets) - 1
        level = self.recording.bucket(torch.tensor(self.sigmas)).tolist()
        place = {number: at for at, number in enumerate(numbers)}
        sums: list[list[Tensor | None]] = [[None] * buckets for _ in numbers]

        def keep(step: int, samples: Sequence[int], clean: Tensor) -> None:
            if step >= len(level) or level[step] < 0:
                return
            for number, latent in zip(samples, clean.float().cpu()):
                known = sums[place[number]]
                before = known[level[step]]
                known[level[step]] = latent if before is None else before + latent

        for _ in self.make(numbers, watch=keep):
            pass
        counts = [max(1, level.count(bucket)) for bucket in range(buckets)]
        empty = torch.zeros(self.sampling.channels, *self.sampling.size)
        values = torch.stack(
            [
                torch.stack([(empty if s is None else s).flatten() / counts[b] for b, s in enumerate(of)])
                for of in sums
            ]
        )
        return values, torch.tensor([[s is not None for s in of] for of in sums])
