"""What steering computes per token. Callers name what they want; this module decides what computes it."""

from __future__ import annotations

from .reference import decode, encode_selected, encode_topk, steer_selected

__all__ = ["decode", "encode_selected", "encode_topk", "steer_selected"]
