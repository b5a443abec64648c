"""Tiny random models, saved to a file and loaded by the host itself, and one way to sample from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy.ldm.flux.model import Flux, FluxParams
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from safetensors.torch import save_file
from torch import Tensor

WIDTH = {"flux": 128, "sd3": 192}
CONTEXT = {"flux": 48, "sd3": 40}
POOLED = 32
TEXT = {"flux": 7, "sd3": 83}
GRID = (4, 6)


def tiny(family: str, folder: Path, seed: int = 0, **changes: Any) -> Any:
    """A MODEL: FLUX with 2 double and 2 single blocks of width 128, or SD3 with 3 joint blocks of width 192."""
    dit = _flux(**changes) if family == "flux" else _sd3(**changes)
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, values in dit.state_dict().items():
        fan_in = values.shape[-1] if values.ndim > 1 else 25
        state[name] = torch.randn(values.shape, generator=draw) / fan_in**0.5
        if "norm" in name or ".ln_" in name:
            state[name] = 1 + state[name]
    file = folder / f"{family}-{seed}.safetensors"
    save_file(state, file)
    try:
        return comfy.sd.load_diffusion_model(str(file), model_options={"dtype": torch.float32})
    except ValueError:  # older hosts take every FLUX for one of 24 heads
        return _with_one_head(state)


def _with_one_head(state: dict[str, Tensor]) -> Any:
    settings = {**comfy.model_detection.detect_unet_config(state, ""), "num_heads": 1}
    config = comfy.model_detection.model_config_from_unet_config(settings, state)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(state, "")
    model.load_model_weights(dict(state), "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def _flux(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": POOLED,
        "context_in_dim": CONTEXT["flux"],
        "hidden_size": WIDTH["flux"],
        "mlp_ratio": 4.0,
        "num_heads": 1,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": False,
        "txt_ids_dims": [],
    }
    known = {field.name for field in dataclasses.fields(FluxParams)}  # older hosts have fewer
    settings = {name: value for name, value in {**settings, **changes}.items() if name in known}
    return Flux(image_model="flux", operations=comfy.ops.disable_weight_init, **settings)


def _sd3(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "input_size": None,
        "in_channels": 16,
        "out_channels": 16,
        "depth": 3,
        "patch_size": 2,
        "adm_in_channels": POOLED,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": CONTEXT["sd3"], "out_features": WIDTH["sd3"]},
        },
        "num_patches": 64,
        "pos_embed_max_size": 8,
        "pos_embed_scaling_factor": None,
        "qk_norm": "rms",
    }
    return OpenAISignatureMMDITWrapper(operations=comfy.ops.disable_weight_init, **{**settings, **changes})


def prompt(family: str, seed: int, tokens: int | None = None, **extra: Any) -> list[Any]:
    """A CONDITIONING of random text states."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens or TEXT[family], CONTEXT[family], generator=draw)
    return [[text, {"pooled_output": torch.randn(1, POOLED, generator=draw), **extra}]]


def noise(batch: int = 1, seed: int = 5) -> Tensor:
    """Latent noise (B, 16, H, W) of an oblong picture."""
    height, width = GRID
    return torch.randn(batch, 16, 2 * height, 2 * width, generator=torch.Generator().manual_seed(seed))


def sample(
    model: Any,
    positive: Any,
    negative: Any,
    *,
    cfg: float = 1.0,
    sampler: str = "euler",
    steps: int = 3,
    start: Tensor | None = None,
    callback: Any = None,
) -> Tensor:
    """What the host's KSampler node does, (B, 16, H, W)."""
    start = noise() if start is None else start
    return comfy.sample.sample(
        model,
        start,
        steps,
        cfg,
        sampler,
        "simple",
        positive,
        negative,
        torch.zeros_like(start),
        seed=5,
        disable_pbar=True,
        callback=callback,
    )


def sigmas(model: Any, steps: int = 3) -> Sequence[float]:
    """The noise levels that `sample` goes through."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps).tolist()
