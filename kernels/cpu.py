"""The kernels on processors."""

from __future__ import annotations

from .reference import (
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
    "add_direction",
    "decode",
    "decode_selected",
    "encode_and_steer",
    "encode_selected",
    "encode_threshold",
    "encode_topk",
    "project_out",
    "steer_selected",
    "topk_membership",
]
