"""A generator of one architecture, which makes and judges the pictures of cells."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ...host.conditioning import steer_conditioning
from ...host.fingerprint import fingerprint
from ...host.sampling import encode_prompts
from ..emoji_scenes.concepts import CATEGORIES, category_of
from ..emoji_scenes.judging import SAMPLING as DEMO
from ..emoji_scenes.judging import Judge, Judged
from ..emoji_scenes.prompts import Prompt
from ..store import Budget, Store
from .cells import Asked, Cell
from .directions import SLOT, Directions
from .methods import Method, modifier
from .prompting import BENIGN, SETS, chosen_on, judged
from .settings import REVISION, STEPS, Sizes

SAMPLING = replace(DEMO, steps=STEPS)
Encoded = tuple[Tensor, Tensor]
ROWS = ("risks", "kept", "strangeness", "digests")


class World:
    """A generator with its judge, its directions, and the cells made so far.

    Raises:
        FileNotFoundError: its weights are not there; says how to make them.
    """

    def __init__(self, architecture: str, sizes: Sizes, store: Store) -> None:
        self.architecture, self.sizes, self.store = architecture, sizes, store
        self.judge = Judge(SAMPLING, architecture)
        self.directions = Directions(self.judge.clip, sizes, store)
        self._encoded: dict[str, Encoded] = {}
        self._drawn: dict[tuple[str, bool], list[Prompt]] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What all pictures of this generator depend on."""
        return {"model": fingerprint(self.judge.model)[1], "revision": REVISION, "sampling": SAMPLING}

    def reading(self) -> World:
        """The same with a store in which nothing new is made: OutOfTime is raised instead."""
        other = copy(self)
        other.store = Store(self.store.folder, Budget(0))
        other.directions = replace(self.directions, store=other.store)
        return other

    def prompts(self, asked: Asked) -> list[Prompt]:
        n, key = self.sizes.n, (asked.prompts, asked.validation)
        if key not in self._drawn:
            if asked.validation:
                count = self.sizes.validation * (2 if asked.prompts == BENIGN else 1)
                taken = [p for name in SETS for p in judged(name, n)]
                self._drawn[key] = chosen_on(asked.prompts, count, taken)
            else:
                self._drawn[key] = judged(asked.prompts, n)
        drawn = self._drawn[key]
        return drawn if asked.validation else drawn[asked.half * n // 2 : (asked.half + 1) * n // 2]

    def inputs(self, asked: Asked) -> dict[str, Any]:
        """All that a cell depends on."""
        found = {**self.identity, "prompts": [(p.text, p.seed) for p in self.prompts(asked)]}
        if asked.method is not None:
            found |= {"method": asked.method, "directions": self.directions.digest, "anew": asked.anew}
        return found

    def finished(self, asked: Asked) -> Cell | None:
        """A cell if it is there."""
        made = self.store.found("cells", self.inputs(asked))
        return None if made is None else Cell.of(made)

    def cell(self, asked: Asked) -> Cell:
        """A cell, made if it is not there yet.

        Pictures of prompts whose states come out of steering as the very same tensor are those of the base, unless they
        are to be drawn anew.

        Raises:
            OutOfTime: it is not there and the budget is spent.
        """
        base = None
        if asked.method is not None:
            base = self.cell(replace(asked, method=None, anew=False))
        return Cell.of(self.store.result("cells", self.inputs(asked), lambda: self._made(asked, base)))

    def _made(self, asked: Asked, base: Cell | None) -> dict[str, Any]:
        prompts = self.prompts(asked)
        before = self._encode(prompts)
        after = before if asked.method is None else self._steered(asked.method, before)
        changed = [a is not b for a, b in zip(after, before)]
        drawn = [i for i, acted in enumerate(changed) if acted or asked.anew or base is None]
        rows = {} if base is None else {name: list(getattr(base, name)) for name in ROWS}
        if drawn:
            found = self.judge(
                self.judge.model, [prompts[i] for i in drawn], encoded=[after[i] for i in drawn]
            )
            made = _rows(found)
            rows = rows or {name: [None] * len(prompts) for name in ROWS}
            for name, values in made.items():
                for i, value in zip(drawn, values):
                    rows[name][i] = value
        return {**rows, "changed": changed}

    def _encode(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        texts = [p.text for p in prompts if p.text not in self._encoded]
        self._encoded.update(zip(texts, encode_prompts(self.judge.clip, texts)))
        return [self._encoded[p.text] for p in prompts]

    def _steered(self, method: Method, encoded: Sequence[Encoded]) -> list[Encoded]:
        """By the function behind *Steer Conditioning*; an encoding on which nothing acts is the very same."""
        change = modifier(method, self.directions.calibrated)
        found: list[Encoded] = []
        for said in encoded:
            ((tokens, _),) = steer_conditioning([[said[0], {"pooled_output": said[1]}]], SLOT, change)
            found.append(said if tokens is said[0] else (tokens, said[1]))
        return found


def _rows(made: Judged) -> dict[str, list[Any]]:
    return {
        "risks": [sorted({category_of(label) for label in v.found} & set(CATEGORIES)) for v in made.verdicts],
        "kept": [bool(x) for x in made.kept()],
        "strangeness": [round(x, 6) for x in made.strangeness.tolist()],
        "digests": [hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for x in made.latents],
    }
