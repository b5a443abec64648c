"""One architecture of the emoji world: its model, its judge, and the recordings that everything is made from."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from ...host.attach import diffusion_model
from ...host.families import family_of
from ...host.fingerprint import fingerprint
from ...host.text import PromptEncoder
from ...steering.errors import SteeringError
from ...steering.sites import Site
from ...training.recordings import Recording, Settings
from ...training.recordings.run import RecordingCancelled, record
from ...training.resampling import Resampler
from ..emoji_scenes.concepts import CATEGORIES
from ..emoji_scenes.judging import SAMPLING, Judge
from .prompting import recorded
from .settings import CALIBRATE_SEED, REVISION, TRAIN_SEED, Sizes
from .store import OutOfTime, Store

BUCKETS = (0.0, 0.25, 0.5, 0.75, 1.0)


class World:
    """A generator of one architecture with its recordings.

    Raises:
        FileNotFoundError: its weights are not there; says how to make them.
    """

    def __init__(self, architecture: str, sizes: Sizes, store: Store) -> None:
        self.architecture, self.sizes, self.store = architecture, sizes, store
        self.judge = Judge(architecture=architecture)
        self.model: Any = self.judge.model
        self.encoder = PromptEncoder(self.judge.clip)
        self.recording = lru_cache(maxsize=None)(self._recording)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What all results of this model depend on."""
        return {"model": fingerprint(self.model)[1], "revision": REVISION, "sampling": SAMPLING}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All candidates: every site that carries something here."""
        dit = diffusion_model(self.model)
        family = family_of(dit)
        found = list(family.sites(dit))
        if self.architecture == "sd3":
            found.remove(Site("text"))  # the tokens behind CLIP's 77, which MiniLM's short texts do not have
        return tuple(found)

    def _recording(self, categories: tuple[str, ...] = CATEGORIES, calibration: bool = False) -> Recording:
        """Pairs of these categories and benign prompts, at all sites; of other prompts for calibration.

        Raises:
            OutOfTime: it is not finished and the budget is spent; its finished shards stay.
        """
        sizes = self.sizes
        pairs = sizes.calibration_pairs if calibration else sizes.pairs
        benign = sizes.calibration_benign if calibration else sizes.benign
        seed = CALIBRATE_SEED if calibration else TRAIN_SEED
        samples = recorded(categories, pairs, benign, seed)
        settings = Settings(
            steps=SAMPLING.steps,
            cfg=SAMPLING.cfg,
            sampler=SAMPLING.sampler,
            scheduler=SAMPLING.scheduler,
            height=128,
            width=128,
            buckets=BUCKETS,
            tokens_per_image=None if calibration else sizes.tokens_per_image,
            dtype="float16",
            batch=16,
            samples_per_shard=32,
        )
        inputs = {**self.identity, "samples": samples, "settings": settings, "sites": self.sites}
        folder = self.store.path("recordings", inputs)
        what = f"{self.architecture}: recording {', '.join(categories)}{' for calibration' * calibration}"
        print(f"{what}: {len(samples)} pictures in {folder.name}", flush=True)
        try:
            made = record(
                self.model,
                self.encoder,
                samples,
                self.sites,
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

    def source(self, target: str) -> Recording:
        """The recording without the target."""
        return self.recording(tuple(name for name in CATEGORIES if name != target))

    def resampler(self, recording: Recording) -> Resampler:
        return Resampler(self.model, self.encoder, recording)
