"""Files damaged in drawn places: whatever is changed in a bundle is refused, or changes nothing."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .bundles import HUGE

VALUES = st.sampled_from(
    [None, True, -1, 0, 10**30, 0.5, "", "x", "text", [], [[]], {}, {"a": 1}, [1, 2], HUGE]
)


def change_byte(sound: Path, target: Path, data: st.DataObject) -> None:
    """A copy in which one byte is another; the header's are drawn as often as all others together."""
    content = bytearray(sound.read_bytes())
    table_end = 8 + struct.unpack("<Q", content[:8])[0]
    position = data.draw(st.integers(0, len(content) - 1) | st.integers(0, table_end - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    target.write_bytes(content)


def cut_short(sound: Path, target: Path, data: st.DataObject) -> None:
    """A copy that ends too early."""
    target.write_bytes(sound.read_bytes())
    os.truncate(target, data.draw(st.integers(0, target.stat().st_size - 1)))


def change_field(place: Any, data: st.DataObject) -> None:
    """Walks to a drawn field of a JSON value and puts a drawn value there."""
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            return
        place = place[key]
