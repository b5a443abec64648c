"""Anchors of the world's unsafe things with their thresholds: collected as *Collect Unsafe Anchors* does.

Masks are the oracle's, of pictures that the unsteered generator makes; every third picture is kept for thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...steering.formats.bundle import Bundle, open_bundle
from ...training.flows.bundling import collect_bundle
from ...training.flows.samples import Example, Sampler
from ..emoji_scenes.judging import Judge
from ..emoji_scenes.masks import unsafe_masks
from ..emoji_scenes.oracle import Oracle
from ..store import Store
from .making import BATCH
from .prompting import learnt
from .settings import Anchored, Sizes


@dataclass(frozen=True)
class Examples:
    """Pictures that are learnt from, with what makes and marks them."""

    sampler: Sampler
    oracle: Oracle
    vae: Any

    def masks(self) -> Tensor:
        """(n, 128, 128) of the unsafe ones, in their order."""
        unsafe = [n for n, example in enumerate(self.sampler.examples) if example.concept is not None]
        return unsafe_masks(self.oracle, self.vae.pictures(self.sampler.latents(among=unsafe)))


def concept_of(thing: str | None, category: str | None, anchored: Anchored) -> str | None:
    """What is unsafe in a picture: the thing or attribute, or its category; None: nothing is."""
    return category if anchored.concepts == "categories" else thing


def prompted(judge: Judge, sizes: Sizes, anchored: Anchored) -> Examples:
    """The generator's."""
    examples = [Example(p.text, p.seed, concept_of(p.unsafe, p.category, anchored)) for p in learnt(sizes)]
    sampler = Sampler(judge.model, judge.clip, examples, judge.sampling, batch=BATCH)
    return Examples(sampler, judge.oracle, judge.vae)


def collected(
    what: Examples, anchored: Anchored, sizes: Sizes, store: Store, identity: dict[str, Any]
) -> Bundle:
    """The bundle of anchors, made if it is not there yet.

    Raises:
        OutOfTime: it is not there and the budget is spent.
    """
    said: Sequence[Example] = what.sampler.examples
    inputs = {**identity, "anchored": anchored, "examples": said, "several": sizes.several}
    path = store.path("anchors", inputs, ".safetensors")

    def make() -> dict[str, Any]:
        path.parent.mkdir(parents=True, exist_ok=True)
        _, summary = collect_bundle(
            what.sampler,
            what.masks(),
            path,
            sites=anchored.site,
            startup_percent=anchored.startup_percent,
            false_positives=anchored.false_positives,
            several=sizes.several,
            base="emoji-scenes-flux",
        )
        return {"summary": summary.splitlines()}

    store.result("anchors", inputs, make)
    return open_bundle(path)
