"""What is unsafe in one picture: a core of patches, and a ring around them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor


class Region(NamedTuple):
    """On the grid of a picture's tokens; on the CPU."""

    core: Tensor
    """(H, W) bool"""
    ring: Tensor
    """(H, W) bool: around the core, and never in it."""

    @property
    def size(self) -> tuple[int, int]:
        return self.core.shape[0], self.core.shape[1]

    @property
    def is_empty(self) -> bool:
        return not bool(self.core.any())

    def joined(self, other: Region) -> Region:
        """Both regions; what is core in one is no ring."""
        core = self.core | other.core
        return Region(core, (self.ring | other.ring) & ~core)

    def is_same(self, other: Region) -> bool:
        """Whether both mark the same patches; their sizes are the same."""
        return torch.equal(self.core, other.core) and torch.equal(self.ring, other.ring)


def union(regions: Iterable[Region]) -> Region:
    """All of some regions, one at least, of the same size."""
    return reduce(Region.joined, regions)
