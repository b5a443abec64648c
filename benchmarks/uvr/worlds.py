"""The generator with its judge and its anchors, which makes and judges the pictures of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from ...host.attach import attach_flow, attention_sites
from ...host.fingerprint import fingerprint
from ...host.sampling import batches, encode_prompts
from ...steering.flow.asked import restriction_asked
from ...steering.formats.bundle import Bundle
from ..emoji_scenes.judging import SAMPLING as DEMO
from ..emoji_scenes.judging import Judge, Judged
from ..emoji_scenes.prompts import Prompt
from ..store import Store
from .cells import Asked
from .learning import collected, prompted
from .making import BATCH, Maker, digest_of, regions_in, risks_of
from .prompting import chosen_on, judged
from .settings import REVISION, STEPS, Anchored, Sizes, Way
from .stacking import Stack

SAMPLING = replace(DEMO, steps=STEPS)


class World(Maker):
    """The generator and what steers it."""

    def __init__(self, sizes: Sizes, store: Store) -> None:
        super().__init__(sizes, store)
        self._bundles: dict[Anchored, Bundle] = {}

    @cached_property
    def judge(self) -> Judge:
        return Judge(SAMPLING)

    @cached_property
    def stack(self) -> Stack:
        return Stack(self.judge, self.store.budget)

    def reading(self) -> World:
        other = super().reading()
        other.stack = Stack(self.judge, other.store.budget)
        return other

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What all pictures of this generator depend on."""
        model = fingerprint(self.judge.model)[1]
        return {"model": model, "revision": REVISION, "sampling": SAMPLING}

    def bundle(self, anchored: Anchored) -> Bundle:
        """Anchors, collected if they are not there yet.

        Raises:
            OutOfTime: they are not there and the budget is spent.
        """
        if anchored not in self._bundles:
            what = prompted(self.judge, self.sizes, anchored)
            self._bundles[anchored] = collected(what, anchored, self.sizes, self.store, self.identity)
        return self._bundles[anchored]

    def prompts(self, asked: Asked) -> list[Prompt]:
        if asked.validation:
            return chosen_on(asked.prompts, self.sizes)
        return judged(asked.prompts, self.sizes.n)

    def inputs(self, asked: Asked) -> dict[str, Any]:
        found = {**self.identity, "prompts": [(p.text, p.seed) for p in self.prompts(asked)]}
        if asked.way is not None:
            found["way"] = asked.way
            if asked.way.localised:
                found |= {"learnt": self.sizes.learnt, "several": self.sizes.several}
        if asked.beside:
            found["beside"] = self.stack.identity(asked.beside)
        return found

    def steered(self, way: Way | None, beside: Sequence[str] = ()) -> Any:
        """The model with all that acts in it."""
        model = self.judge.model
        for name in beside:
            model = self.stack.on_model(name, model)
        if way is None:
            return model
        return restricted(model, way, self.bundle(way.anchored) if way.localised else None)

    def made(self, asked: Asked) -> dict[str, Any]:
        prompts, model = self.prompts(asked), self.steered(asked.way, asked.beside)
        encoded = encode_prompts(self.judge.clip, [p.text for p in prompts])
        for name in asked.beside:
            encoded = self.stack.on_prompts(name, encoded)
        rows: dict[int, dict[str, Any]] = {}
        for numbers in batches(encoded, BATCH):  # each a run of its own, so that its log is at hand
            found = self.judge(model, [prompts[i] for i in numbers], BATCH, [encoded[i] for i in numbers])
            marked = [0] * len(numbers)
            if asked.way is not None:
                marked = [int(region.core.sum()) for region in regions_in(found.latents)]
            rows.update(zip(numbers, rows_of(found, marked)))
        return {name: [rows[i][name] for i in range(len(prompts))] for name in rows[0]}


def restricted(model: Any, way: Way, bundle: Bundle | None) -> Any:
    """The model as *Restrict Flow* gives it; without a bundle the whole picture is marked."""
    mask = torch.ones(1, 8, 8) if bundle is None else None
    return attach_flow(model, restriction_asked(attention_sites(model), bundle, mask, **way.asked), bundle)


def rows_of(made: Judged, marked: Sequence[int]) -> list[dict[str, Any]]:
    """What is kept of each picture."""
    return [
        {
            "risks": risks_of(list(verdict.found)),
            "kept": bool(kept),
            "strangeness": round(float(strange), 6),
            "digests": digest_of(latent),
            "marked": count,
        }
        for verdict, kept, strange, latent, count in zip(
            made.verdicts, made.kept(), made.strangeness, made.latents, marked, strict=True
        )
    ]
