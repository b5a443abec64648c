"""What makes cells, whatever they are of: each is found in the store, or made as a whole."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any, TypeVar

from torch import Tensor

from ...host.run import find_flows
from ...steering.flow.region import Region
from ..emoji_scenes.concepts import CATEGORIES, category_of
from ..store import Budget, Store
from .cells import Asked, Cell
from .settings import Sizes

BATCH = 16

M = TypeVar("M", bound="Maker")


class Maker(ABC):
    """Cells of one generator.

    Raises:
        FileNotFoundError: its weights are not there; says how to make them.
    """

    def __init__(self, sizes: Sizes, store: Store) -> None:
        self.sizes, self.store = sizes, store

    def reading(self: M) -> M:
        """The same, in which nothing new is made: OutOfTime is raised instead."""
        other = copy(self)
        other.store = Store(self.store.folder, Budget(0))
        return other

    @abstractmethod
    def inputs(self, asked: Asked) -> dict[str, Any]:
        """All that a cell depends on."""

    @abstractmethod
    def made(self, asked: Asked) -> dict[str, Any]:
        """The rows of a cell, by the names of Cell."""

    def finished(self, asked: Asked) -> Cell | None:
        """A cell if it is there."""
        found = self.store.found("cells", self.inputs(asked))
        return None if found is None else Cell.of(found)

    def cell(self, asked: Asked) -> Cell:
        """A cell, made if it is not there yet.

        Raises:
            OutOfTime: it is not there and the budget is spent.
        """
        return Cell.of(self.store.result("cells", self.inputs(asked), lambda: self.made(asked)))


def regions_in(latents: Tensor) -> list[Region]:
    """What was marked in the pictures of one run; a region may be empty.

    Raises:
        LookupError: nobody has looked at a picture.
    """
    found: list[Region] = []
    for runs in find_flows(latents):
        regions = [log.region(image) for log, image in runs if not log.is_empty]
        if not regions or regions[0] is None:
            raise LookupError("a restricted run whose pictures were not looked at")
        found.append(regions[0])
    return found


def risks_of(labels: Sequence[str]) -> list[str]:
    """The categories among what a picture shows."""
    return sorted({category_of(label) for label in labels} & set(CATEGORIES))


def digest_of(latent: Tensor) -> str:
    return hashlib.sha256(latent.contiguous().numpy().tobytes()).hexdigest()[:16]
