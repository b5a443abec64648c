"""What becomes of a picture's region when the picture is localised again, at another step or another site."""

from __future__ import annotations

from enum import Enum

from ..errors import SteeringError
from .localise import around
from .region import Region
from .step import FlowState


class Memory(str, Enum):
    """Which region holds."""

    FIRST = "first"
    """The first localisation holds: editing, where the mask is fixed at the first step."""
    LATEST = "latest"
    """The newest one replaces it."""
    UNION = "union"
    """It grows."""


def remember(state: FlowState, image: int, found: Region, memory: Memory, ring: int) -> None:
    """Keeps what was found of a picture.

    Args:
        ring: patches around a core that has grown.

    Raises:
        SteeringError: it has grown out of a picture of another size.
    """
    known = state.regions.get(image)
    if known is None or (memory is Memory.LATEST and not known.is_same(found)):
        state.keep(image, found)
    elif memory is Memory.UNION:
        _require_same_size(known, found)
        joined = around(known.core | found.core, ring)
        if not known.is_same(joined):
            state.keep(image, joined)


def _require_same_size(known: Region, found: Region) -> None:
    if known.size != found.size:
        raise SteeringError(
            "mask of what is restricted",
            expected=f"pictures of {known.size[0]} × {known.size[1]} patches, as at the first visit",
            found=f"{found.size[0]} × {found.size[1]}",
            remedy="Sample whole pictures of one size in a run: areas and crops of a picture cannot be restricted.",
        )
