"""Short ways to a steered MODEL for the tests."""

from __future__ import annotations

from typing import Any

from steerdit.nodes.steer import BlendNode, RepelNode
from steerdit.steering.formats.bundle import Bundle

INPUTS = {
    "strength": 1.0,
    "categories": "all",
    "sites": "default",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "gate": "token",
    "keep_norm": True,
    "form": "default",
    "topk": "auto",
}


def repelled(model: Any, bundle: Bundle, **changes: Any) -> Any:
    """The MODEL that the node Repel gives."""
    steered, _ = RepelNode.execute(model=model, bundle=bundle, **{**INPUTS, **changes}).args
    return steered


def blended(model: Any, bundle: Bundle, **changes: Any) -> Any:
    """The MODEL that the node Blend gives."""
    steered, _ = BlendNode.execute(model=model, bundle=bundle, **{**INPUTS, **changes}).args
    return steered
