"""What else steers beside a restriction: Repel with the shipped bundle, and a direction carried from a language model.

Both as users meet them: Repel with the node's defaults, the direction gated and projected out, as in
example_workflows/transfer-direction.json.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ...host.conditioning import steer_conditioning
from ...steering.formats.bundle import open_bundle
from ..emoji_scenes import weights
from ..emoji_scenes.judging import Judge
from ..store import Budget, Store
from ..transfer.__main__ import DEFAULT, VARIABLE
from ..transfer.directions import SLOT, Directions
from ..transfer.methods import Method, modifier
from ..transfer.settings import CARRIED
from ..transfer.settings import Sizes as TransferSizes
from .settings import DIRECTION, REPEL

CARRIED_OVER = Method(CARRIED, "gated", "project_out", 4.0)
"""Its strength is the workflow's."""
Encoded = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Stack:
    """By name."""

    judge: Judge
    budget: Budget

    def identity(self, names: Sequence[str]) -> dict[str, Any]:
        """What pictures with these depend on."""
        found: dict[str, Any] = {}
        if REPEL in names:
            found[REPEL] = self._bundle.identity
        if DIRECTION in names:
            found[DIRECTION] = {"method": CARRIED_OVER, "directions": self._directions.digest}
        return found

    def on_model(self, name: str, model: Any) -> Any:
        if name != REPEL:
            return model
        from ...nodes.steer import RepelNode

        defaults = {i.id: i.default for i in RepelNode.define_schema().inputs if hasattr(i, "default")}
        return RepelNode.execute(**{**defaults, "model": model, "bundle": self._bundle}).args[0]

    def on_prompts(self, name: str, encoded: Sequence[Encoded]) -> list[Encoded]:
        """An encoding on which nothing acts is the very same.

        Raises:
            OutOfTime: the directions are not made yet, and the budget is spent.
        """
        if name != DIRECTION:
            return list(encoded)
        change = modifier(CARRIED_OVER, self._directions.calibrated)
        found: list[Encoded] = []
        for said in encoded:
            ((tokens, _),) = steer_conditioning([[said[0], {"pooled_output": said[1]}]], SLOT, change)
            found.append(said if tokens is said[0] else (tokens, said[1]))
        return found

    @cached_property
    def _bundle(self) -> Any:
        return open_bundle(weights.path("bundle"))

    @cached_property
    def _directions(self) -> Directions:
        """Made in the work folder of that benchmark, so that neither makes them twice."""
        folder = Path(os.environ.get(VARIABLE, DEFAULT))
        return Directions(self.judge.clip, TransferSizes(), Store(folder, self.budget))
