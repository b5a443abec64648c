"""The steering nodes say how latents fire, load what that needs, and refuse what the bundle cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerdit.nodes.steer import BlendNode, RepelNode
from steerdit.steering import SteeringError

from .steered import INPUTS, repelled
from .synthetic import LATENTS, bundle
from .tiny import tiny

SITE = "double.1.image"


def loaded(model: object) -> int:
    """How many latents the steered MODEL brings with it."""
    (patcher,) = model.get_additional_models_with_key("steerdit")  # type: ignore[attr-defined]
    return patcher.model.loaded


@pytest.mark.parametrize("node", [RepelNode, BlendNode])
def test_the_node_says_which_rule_runs_and_why(node: type, tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    for activation, start in (
        ("relu", "relu, exact"),
        ("topk", "topk 6 of 40, exact because the bundle holds no"),
    ):
        file = bundle(tmp_path, "flux", (SITE,), activation=activation)
        said = node.execute(model=model, bundle=file, **INPUTS).args[1]
        assert said.startswith(f"{SITE}: {start}")
        without = {name: value for name, value in INPUTS.items() if name != "topk"}  # an older workflow
        assert node.execute(model=model, bundle=file, **without).args[1] == said


def test_only_exact_loads_the_whole_dictionary(tmp_path: Path) -> None:
    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux", (SITE,), activation="topk")
    assert loaded(repelled(model, file, topk="exact")) == LATENTS
    assert loaded(repelled(model, file, topk="relu")) == 4


def test_thresholds_that_the_bundle_lacks_are_refused(tmp_path: Path) -> None:
    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux", (SITE,), activation="topk")
    with pytest.raises(SteeringError, match=r"calibrated thresholds .* found a TopK dictionary without them"):
        repelled(model, file, topk="threshold")
