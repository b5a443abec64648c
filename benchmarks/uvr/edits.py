"""The generator that edits, with its judge and its anchors: references are drawn, for which icon sets are needed.

Anchors are its own, from instructions to learn from: what passes where references are seen differs from generation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import count, islice
from typing import Any

import torch

from ...evaluation.artifacts import strangeness
from ...host.fingerprint import fingerprint
from ...host.sampling import batches, encode_prompts, sample_prompts
from ...steering.formats.bundle import Bundle
from ...training.flows.samples import Example, Sampler
from ..emoji_scenes import in_host, weights
from ..emoji_scenes.editing.instructions import Edit, edit
from ..emoji_scenes.editing.judging import SAMPLING as DEMO
from ..emoji_scenes.editing.judging import EditJudge, judge
from ..emoji_scenes.icons import icons
from ..emoji_scenes.scenes import SceneSource
from ..emoji_scenes.train_generator import EDITING
from ..store import Store
from .asked_edits import kind_of, unsafe_of
from .cells import Asked
from .learning import Examples, collected, concept_of
from .making import BATCH, Maker, digest_of, regions_in
from .plan import BENIGN_EDITS, BY_INSTRUCTION, BY_REFERENCE, EDITS
from .settings import REVISION, STEPS, Anchored, Sizes
from .worlds import restricted

SAMPLING = replace(DEMO, steps=STEPS)
SEEDS = {"held-out": 71_000_000, "validation": 72_000_000, "learnt": 73_000_000}
"""Where the edits of each begin; training has those below 60 million."""
SHARES = {BY_INSTRUCTION: 1, BY_REFERENCE: 1, BENIGN_EDITS: 4}
"""Of each set, to learn from and to choose settings on: any of a dozen thresholds may mark a benign edit."""


class Edits(Maker):
    """Instructions carried out on references.

    Raises:
        FileNotFoundError: the generator that edits, or the icon sets, are not there; says how to make them.
    """

    def __init__(self, sizes: Sizes, store: Store) -> None:
        super().__init__(sizes, store)
        self.checkpoint = weights.editor()
        self.judge = EditJudge(SceneSource(icons(), layout=EDITING.layout), SAMPLING)
        self._bundles: dict[Anchored, Bundle] = {}
        self._drawn: dict[tuple[str, str], list[Edit]] = {}

    @cached_property
    def model(self) -> Any:
        return in_host.editor(self.checkpoint)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What all edits depend on."""
        return {"model": fingerprint(self.model)[1], "revision": REVISION, "sampling": SAMPLING}

    def bundle(self, anchored: Anchored) -> Bundle:
        """Anchors, collected if they are not there yet.

        Raises:
            OutOfTime: they are not there and the budget is spent.
        """
        if anchored not in self._bundles:
            what = self._examples(anchored)
            self._bundles[anchored] = collected(what, anchored, self.sizes, self.store, self.identity)
        return self._bundles[anchored]

    def edits(self, asked: Asked) -> list[Edit]:
        if asked.validation:
            return self._some(asked.prompts, "validation", self.sizes.validation * SHARES[asked.prompts])
        return self._some(asked.prompts, "held-out", self.sizes.n)

    def inputs(self, asked: Asked) -> dict[str, Any]:
        found = {**self.identity, "edits": [(e.text, e.before) for e in self.edits(asked)]}
        if asked.way is not None:
            found |= {"way": asked.way, "learnt": self.sizes.learnt, "several": self.sizes.several}
            found["shares"] = SHARES
        return found

    def made(self, asked: Asked) -> dict[str, Any]:
        edits, model = self.edits(asked), self.model
        if asked.way is not None:
            model = restricted(model, asked.way, self.bundle(asked.way.anchored))
        *encoded, negative = encode_prompts(self.judge.clip, [*(e.text for e in edits), ""])
        references = self.judge.references(edits)
        latents, marked = torch.empty_like(references), [0] * len(edits)
        for numbers in batches(encoded, BATCH):  # each a run of its own, so that its log is at hand
            own = sample_prompts(
                model, [encoded[i] for i in numbers], negative, numbers, SAMPLING, BATCH,
                references=[references[i] for i in numbers],
            )  # fmt: skip
            for _, made in own:
                latents[numbers] = made
                if asked.way is not None:
                    for i, region in zip(numbers, regions_in(made)):
                        marked[i] = int(region.core.sum())
        pictures = self.judge.vae.pictures(latents)
        outcomes = judge(self.judge.oracle, edits, pictures)
        features = torch.cat([self.judge.oracle.features(part) for part in pictures.split(64)])
        return {
            "risks": [sorted(o.risks) for o in outcomes],
            "kept": [o.done for o in outcomes],
            "strangeness": [round(x, 6) for x in strangeness(features, self._real).tolist()],
            "digests": [digest_of(latent) for latent in latents],
            "marked": marked,
        }

    @cached_property
    def _real(self) -> torch.Tensor:
        from safetensors.torch import load_file

        return load_file(weights.path("oracle"))["real_cells"].float()

    def _examples(self, anchored: Anchored) -> Examples:
        """Edits to learn from, and what each shows that is unsafe."""
        edits = [
            e for name, share in SHARES.items() for e in self._some(name, "learnt", self.sizes.learnt * share)
        ]
        examples = [
            Example(e.text, number, concept_of(*unsafe_of(e), anchored)) for number, e in enumerate(edits)
        ]
        sampler = Sampler(
            self.model, self.judge.clip, examples, SAMPLING, batch=BATCH,
            references=list(self.judge.references(edits)),
        )  # fmt: skip
        return Examples(sampler, self.judge.oracle, self.judge.vae)

    def _some(self, name: str, use: str, n: int) -> list[Edit]:
        key = name, use
        if len(self._drawn.get(key, ())) < n:
            self._drawn[key] = list(islice(drawn(self.judge.source, name, SEEDS[use]), n))
        return self._drawn[key][:n]


def drawn(source: SceneSource, name: str, start: int) -> Iterator[Edit]:
    """The edits of one of EDITS, without end."""
    for seed in count(start):
        made = edit(source, seed)
        if kind_of(made) == name:
            yield made


assert set(SHARES) == set(EDITS)
