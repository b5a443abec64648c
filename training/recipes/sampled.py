"""The two stages that need the host, and the model for them, which is loaded when it is first asked for.

Imports the host where it runs: see `host.headless.boot`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from ...host import headless
from ...steering.errors import SteeringError
from ...steering.sites import select_sites
from ..recordings import PromptRow, Recording, Settings, samples_of
from ..routing.ranking import OPERATORS, best_sites, rank, table
from .making import Cancelled, Course
from .recipe import BOTH, Recipe
from .work import Work

PACK = __name__.rpartition(".training.")[0]


class InHost:
    """The stages of a recipe that need the host; `making.Host`.

    Args:
        boot: brings the host into this process.
    """

    def __init__(self, recipe: Recipe, work: Work, boot: Callable[[], object]) -> None:
        self.recipe, self.work, self._boot = recipe, work, boot
        self._loaded: tuple[Any, Any] | None = None
        self._booted = False

    def record(
        self, rows: Sequence[PromptRow], name: str, shard: tuple[int, int], course: Course
    ) -> Recording | None:
        """Records a list of prompts into a folder of that name; None where other processes have parts to make.

        Raises:
            Cancelled: the course said so; finished shards are kept.
            SteeringError: as `recordings.run.record`.
        """
        model, encoder = self._both()
        from ..recordings.asked import sites_named
        from ..recordings.run import RecordingCancelled, record

        said = self.recipe.record
        try:
            return record(
                model,
                encoder,
                samples_of(rows, range(said.first_seed, said.first_seed + said.seeds)),
                sites_named(model, said.sites),
                self._settings(model),
                self.work.path(name),
                shard=shard,
                announce=lambda estimate: course.say(str(estimate)),
                progress=course.progress,
                interrupted=course.stopped,
            )
        except RecordingCancelled as stop:
            raise Cancelled from stop

    def route(self, recording: Recording, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """The best sites, and the table of all candidates. ``progress`` may raise to stop."""
        model, encoder = self._both()
        from ..recordings.resampling import Resampler
        from ..routing.candidates import measure

        said, weights = self.recipe.route, self.recipe.weights
        measured = measure(
            Resampler(model, encoder, recording),
            select_sites(said.sites, recording.sites),
            OPERATORS if said.operator == BOTH else (said.operator,),
            pairs=said.pairs,
            benign=said.benign,
            weights=weights,
            progress=progress,
        )
        ranking = rank(measured, weights)
        return {"sites": [str(site) for site in best_sites(ranking, said.count)], "table": table(ranking)}

    def release(self) -> None:
        """Gives the model's memory back, for what comes next in another process."""
        if self._loaded is not None:
            self._loaded = None
            headless.unload_models()

    def _both(self) -> tuple[Any, Any]:
        """The ModelPatcher, and what a recording asks of its text encoders; loaded once."""
        if self._loaded is None:
            if not self._booted:
                self._boot()
                self._booted = True
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> tuple[Any, Any]:
        import torch

        from ...host.text import PromptEncoder

        said, path = self.recipe.model, self.recipe.path
        with torch.inference_mode():  # as the host's loader nodes run
            if said.checkpoint:
                model, clip = headless.load_checkpoint(path(said.checkpoint))
                return model, PromptEncoder(clip)
            if said.own_text_encoder:
                clip = own_text_encoder(said.own_text_encoder)
            else:
                files = [path(file) for file in said.text_encoders]
                clip = headless.load_text_encoders(files, said.clip_type)
            return headless.load_model(path(said.diffusion_model)), PromptEncoder(clip)

    def _settings(self, model: Any) -> Settings:
        from ..recordings.asked import buckets_named

        said = self.recipe.record
        return Settings(
            steps=said.steps,
            cfg=said.cfg,
            sampler=said.sampler,
            scheduler=said.scheduler,
            height=said.height,
            width=said.width,
            buckets=buckets_named(model, said.buckets),
            tokens_per_image=said.tokens_per_image or None,
            dtype=said.dtype,
            cap=said.cap or None,
            guidance=said.guidance or None,
            negative=said.negative,
            batch=said.batch,
            samples_per_shard=said.samples_per_shard,
        )


def own_text_encoder(name: str) -> Any:
    """What a function of this pack, `module:function` within it, gives: a CLIP object.

    Nothing outside the pack can be named, so that a recipe is data and runs no code of others.

    Raises:
        SteeringError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(f"{PACK}.{module}"), function)()
    except (ImportError, AttributeError) as reason:
        raise SteeringError(
            "model.own_text_encoder",
            expected="`module:function` within this pack, such as benchmarks.emoji_scenes.in_host:text_encoder",
            found=f"{name!r} ({reason})",
            remedy="Name text_encoders instead, unless this is the demo's model.",
        ) from reason
