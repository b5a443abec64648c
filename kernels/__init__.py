"""What steering computes per token. Callers name what they want; `dispatch` decides what computes it.

The pack itself calls the encodes, `decode`, `decode_selected` and `steer_selected`. The others (`topk_membership`,
`encode_and_steer`, `add_direction`, `project_out`) are for who steers without a log of what fired.
"""

from __future__ import annotations

from .chunks import Sparse
from .dispatch import explain
from .operations import (
    add_direction,
    decode,
    decode_selected,
    encode_and_steer,
    encode_selected,
    encode_threshold,
    encode_topk,
    project_out,
    steer_selected,
    topk_membership,
)

__all__ = [
    "Sparse",
    "add_direction",
    "decode",
    "decode_selected",
    "encode_and_steer",
    "encode_selected",
    "encode_threshold",
    "encode_topk",
    "explain",
    "project_out",
    "steer_selected",
    "topk_membership",
]
