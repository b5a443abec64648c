"""SteerDiT with the host's own nodes: where nothing should act no bit changes, where something should it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import torch

from steerdit.nodes.report import ReportNode

from .steered import repelled
from .synthetic import NEVER, bundle
from .tiny import noise, prompt, sample, tiny

FAMILIES = ("flux", "sd3")
PROMPTS = prompt("flux", 1), prompt("flux", 2)
Node = Callable[[Any], Any]


def easy_cache(model: Any) -> Any:
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, 0.3, 0.15, 0.95, False).args[0]


def lazy_cache(model: Any) -> Any:
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, 0.3, 0.15, 0.95, False).args[0]


def skip_layers(model: Any) -> Any:
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    settings = {"scale": 3.0, "start_percent": 0.0, "end_percent": 1.0, "rescaling_scale": 0.0}
    return SkipLayerGuidanceDiT.execute(model, double_layers="1", single_layers="0", **settings).args[0]


def shifted(model: Any) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    return ModelSamplingFlux().patch(model, 1.15, 0.5, 64, 96)[0]


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("node", [easy_cache, lazy_cache, skip_layers, shifted])
def test_nodes_that_change_how_a_model_samples(node: Node, ours_first: bool, tmp_path: Path) -> None:
    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux")

    def both(**inputs: Any) -> Any:
        return node(repelled(model, file, **inputs)) if ours_first else repelled(node(model), file, **inputs)

    run = {"cfg": 3.0, "steps": 8}
    plain = sample(node(model), *PROMPTS, **run)
    assert not torch.equal(sample(both(), *PROMPTS, **run), plain)
    assert torch.equal(sample(both(strength=0.0), *PROMPTS, **run), plain)
    assert torch.equal(sample(node(model), *PROMPTS, **run), plain)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tiny(family, tmp_path)
    try:
        model = comfy.sd.load_diffusion_model(
            str(tmp_path / f"{family}-0.safetensors"), model_options={"dtype": dtype}
        )
    except ValueError:
        pytest.skip("older hosts take every FLUX for one of 24 heads")
    prompts, file = (prompt(family, 1), prompt(family, 2)), bundle(tmp_path, family)
    plain = sample(model, *prompts, cfg=3.0)
    closed = bundle(tmp_path, family, categories={"never": NEVER}, seed=12)
    for same in (repelled(model, file, strength=0.0), repelled(model, closed)):
        assert torch.equal(sample(same, *prompts, cfg=3.0), plain)
    steered = sample(repelled(model, file, strength=10.0, gate="always"), *prompts, cfg=3.0)
    assert steered.isfinite().all()
    assert not torch.equal(steered, plain)


def test_a_schedule_split_over_two_samplers(tmp_path: Path) -> None:
    from nodes import KSamplerAdvanced

    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux")
    empty = {"samples": torch.zeros_like(noise())}

    def halves(model: Any) -> list[dict[str, Any]]:
        early = KSamplerAdvanced().sample(
            model, "enable", 5, 6, 3.0, "euler", "simple", *PROMPTS, empty, 0, 3, "enable"
        )[0]
        late = KSamplerAdvanced().sample(
            model, "disable", 5, 6, 3.0, "euler", "simple", *PROMPTS, early, 3, 10000, "disable"
        )[0]
        return [early, late]

    plain, whole, late = (
        [half["samples"] for half in halves(one)]
        for one in (model, repelled(model, file), repelled(model, file, start_percent=0.6))
    )
    assert not torch.equal(whole[0], plain[0])
    assert torch.equal(late[0], plain[0])
    assert not torch.equal(late[1], plain[1])
    tables = [ReportNode.execute(samples={"samples": half}).args[0] for half in late]
    assert ["nothing was watched" in table for table in tables] == [True, False]


@pytest.mark.parametrize("denoise", [0.05, 0.5])
def test_a_picture_that_is_only_partly_made_anew(denoise: float, tmp_path: Path) -> None:
    from nodes import common_ksampler

    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux")
    latent = {"samples": noise(2, seed=8), "noise_mask": torch.ones(1, 1, 64, 96)}

    def made(model: Any) -> dict[str, Any]:
        return common_ksampler(model, 5, 4, 3.0, "euler", "simple", *PROMPTS, latent, denoise=denoise)[0]

    steered = made(repelled(model, file, gate="always"))
    assert not torch.equal(steered["samples"], made(model)["samples"])
    heat = ReportNode.execute(samples=steered).args[2]
    assert len(heat) == 2
