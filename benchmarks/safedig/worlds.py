"""One architecture of the emoji world: its model, its judge, and the recordings that everything is made from."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor

from ...host.attach import diffusion_model
from ...host.families import family_of
from ...host.fingerprint import fingerprint
from ...host.text import PromptEncoder
from ...steering.errors import SteeringError
from ...steering.sites import Site
from ...training.recordings import Recording, Settings
from ...training.recordings.resampling import Resampler
from ...training.recordings.run import RecordingCancelled, record
from ..emoji_scenes.concepts import CATEGORIES
from ..emoji_scenes.judging import SAMPLING as DEMO
from ..emoji_scenes.judging import Judge
from ..store import OutOfTime, Store
from .prompting import recorded
from .settings import CALIBRATE_SEED, REVISION, STEPS, TRAIN_SEED, Sizes
from .sharing import without

BUCKETS = (0.0, 0.25, 0.5, 0.75, 1.0)
SAMPLING = replace(DEMO, steps=STEPS)
WORDS = Site("text")
"""Where nothing has to be sampled, so that many more prompts are recorded."""


class World:
    """A generator of one architecture with its recordings.

    Raises:
        FileNotFoundError: its weights are not there; says how to make them.
    """

    def __init__(self, architecture: str, sizes: Sizes, store: Store) -> None:
        self.architecture, self.sizes, self.store = architecture, sizes, store
        self.judge = Judge(SAMPLING, architecture)
        self.model: Any = self.judge.model
        self.encoder = PromptEncoder(self.judge.clip)
        self.recording = lru_cache(maxsize=None)(self._recording)
        self._encoded: dict[str, tuple[Tensor, Tensor]] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What all results of this model depend on."""
        return {"model": fingerprint(self.model)[1], "revision": REVISION, "sampling": SAMPLING}

    def encoded(self, text: str) -> tuple[Tensor, Tensor]:
        """The conditioning (1, L, C) and the pooled state (1, P) of a text."""
        if text not in self._encoded:
            self._encoded[text] = self.encoder.encode(text)
        return self._encoded[text]

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All candidates: every site that carries something which the picture still depends on."""
        dit = diffusion_model(self.model)
        found = list(family_of(dit).sites(dit))
        if self.architecture == "flux":
            found.remove(Site("single", len(dit.single_blocks) - 1, "text"))  # nothing reads it any more
        return tuple(found)

    def whole(self, site: Site) -> Recording:
        """All categories at a site, to learn from."""
        return self.recording(words=site == WORDS)

    def source(self, target: str, site: Site | None = None) -> Recording:
        """The recording without the target; no site means all but the words."""
        return self.recording(without=target, words=site == WORDS)

    def fresh(self, site: Site) -> Recording:
        """Other prompts of all categories at a site, for calibration."""
        return self.recording(words=site == WORDS, calibration=True)

    def _recording(self, without: str = "", words: bool = False, calibration: bool = False) -> Recording:
        """Pairs and benign prompts at the sites, or of many more prompts their words.

        Raises:
            OutOfTime: it is not finished and the budget is spent; its finished shards stay.
        """
        if without:
            return self._shared(self.recording(words=words), without)
        sizes = self.sizes.words if words else self.sizes
        samples = recorded(
            CATEGORIES,
            sizes.calibration_pairs if calibration else sizes.pairs,
            sizes.calibration_benign if calibration else sizes.benign,
            CALIBRATE_SEED if calibration else TRAIN_SEED,
        )
        settings = Settings(
            steps=SAMPLING.steps,
            cfg=SAMPLING.cfg,
            sampler=SAMPLING.sampler,
            scheduler=SAMPLING.scheduler,
            height=128,
            width=128,
            buckets=BUCKETS[:1] + BUCKETS[-1:] if words else BUCKETS,
            tokens_per_image=None if calibration or words else self.sizes.tokens_per_image,
            dtype="float16",
            batch=16,
            samples_per_shard=512 if words else 32,
        )
        sites = (WORDS,) if words else self.sites
        inputs = {**self.identity, "samples": samples, "settings": settings, "sites": sites}
        folder = self.store.path("recordings", inputs)
        what = f"{self.architecture}: recording{' words' * words}{' for calibration' * calibration}"
        print(f"{what}: {len(samples)} prompts in {folder.name}", flush=True)
        try:
            made = record(
                self.model,
                self.encoder,
                samples,
                sites,
                settings,
                folder,
                interrupted=self.store.budget.spent,
            )
        except RecordingCancelled as stop:
            raise OutOfTime from stop
        if made is None:
            raise SteeringError(
                str(folder), expected="a whole recording", found="parts of one", remedy="Run this again."
            )
        return made

    def _shared(self, whole: Recording, target: str) -> Recording:
        return without(whole, target, whole.folder.with_name(f"{whole.folder.name}-without-{target}"))

    def resampler(self, recording: Recording) -> Resampler:
        return Resampler(self.model, self.encoder, recording)
