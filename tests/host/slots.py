"""A tiny random model of each family whose conditioning can be steered, built by the host's own classes.

Families that the host loads from a file are in tiny.py; these are too small for its detection by shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import comfy.model_patcher
import comfy.sample
import comfy.supported_models as supported
import torch
from torch import Tensor

WIDTH = 24
POOLED = 32
FLUX: dict[str, Any] = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": WIDTH, "hidden_size": 128,
    "mlp_ratio": 2.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
FLUX2: dict[str, Any] = {
    **FLUX, "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "axes_dim": [32, 32, 32, 32], "theta": 2000,
    "patch_size": 1, "qkv_bias": False, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
    "txt_ids_dims": [3], "mlp_ratio": 3.0,
}  # fmt: skip
SD3: dict[str, Any] = {
    "input_size": None, "in_channels": 16, "out_channels": 16, "depth": 2, "patch_size": 2, "adm_in_channels": POOLED,
    "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128}
    },
    "num_patches": 64, "pos_embed_max_size": 8, "pos_embed_scaling_factor": None, "qk_norm": "rms",
}  # fmt: skip
LUMINA: dict[str, Any] = {
    "patch_size": 2, "in_channels": 16, "dim": 96, "cap_feat_dim": WIDTH, "n_layers": 2, "n_refiner_layers": 1,
    "qk_norm": True, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [16, 16, 16], "axes_lens": [64, 64, 64],
    "multiple_of": 32, "ffn_dim_multiplier": 1.0,
}  # fmt: skip
HUNYUAN: dict[str, Any] = {
    **{name: FLUX[name] for name in FLUX if name != "txt_ids_dims"}, "patch_size": [1, 2, 2], "theta": 256,
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip


class Tiny(NamedTuple):
    """How one family is built and called."""

    config: Callable[[dict[str, Any]], Any]
    """The host's class of its settings."""
    image_model: str
    settings: dict[str, Any]
    latent: tuple[int, ...]
    """(C, H, W) of a picture or (C, T, H, W) of a video."""
    tokens: int = 9
    first: int = 0
    """Tokens before the family's own."""
    pooled: bool = False
    mask: int = 0
    """Tokens at the end that an attention mask calls padding; 0: there is no mask."""
    zeros: int = 0
    """Tokens at the end that are padding of zeros."""


FAMILIES: dict[str, Tiny] = {
    "flux": Tiny(supported.FluxSchnell, "flux", FLUX, (16, 8, 8), pooled=True),
    "sd3": Tiny(supported.SD3, "", SD3, (16, 8, 8), tokens=84, first=77, pooled=True),
    "flux2": Tiny(supported.Flux2, "flux2", FLUX2, (128, 4, 4), mask=3),
    "qwen_image": Tiny(
        supported.QwenImage, "qwen_image",
        {"num_layers": 2, "num_attention_heads": 1, "joint_attention_dim": WIDTH}, (16, 1, 8, 8), mask=2,
    ),
    "z_image": Tiny(
        supported.ZImage, "lumina2",
        {
            **LUMINA, "dim": 288, "axes_dims": [48, 48, 48], "z_image_modulation": True, "pad_tokens_multiple": 32,
            "time_scale": 1000.0,
        },
        (16, 8, 8),
    ),
    "lumina2": Tiny(supported.Lumina2, "lumina2", LUMINA, (16, 8, 8), mask=2),
    "hunyuan_video": Tiny(
        supported.HunyuanVideo, "hunyuan_video", HUNYUAN, (16, 2, 4, 4), pooled=True, mask=2
    ),
    "wan": Tiny(
        supported.WAN21_T2V, "wan2.1",
        {"model_type": "t2v", "dim": 128, "ffn_dim": 64, "num_heads": 1, "num_layers": 2, "text_dim": WIDTH},
        (16, 2, 4, 4), zeros=4,
    ),
    "ltx": Tiny(
        supported.LTXV, "ltxv",
        {
            "cross_attention_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2, "num_layers": 2,
            "caption_channels": WIDTH,
        },
        (128, 2, 4, 4), mask=4,
    ),
}  # fmt: skip
VIDEO = ("hunyuan_video", "wan", "ltx")


def tiny_model(family: str, seed: int = 0) -> Any:
    """A MODEL of random weights in float32."""
    return model_from(FAMILIES[family], seed)


def model_from(tiny: Tiny, seed: int = 0) -> Any:
    """The same of settings that are not among the families."""
    named = {"image_model": tiny.image_model} if tiny.image_model else {}
    config = tiny.config({**named, **tiny.settings})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, values in model.diffusion_model.state_dict().items():
        fan_in = values.shape[-1] if values.ndim > 1 else 25
        state[name] = torch.randn(values.shape, generator=draw) / fan_in**0.5
    model.diffusion_model.load_state_dict(state)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def prompt(family: str, seed: int, batch: int = 1, more: int = 0) -> list[Any]:
    """A CONDITIONING as the family's text encoder makes it, with everything that may stand beside the tokens.

    Args:
        more: tokens of text than usual.
    """
    tiny = FAMILIES[family]
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, tiny.tokens + more, WIDTH, generator=draw)
    if tiny.zeros:
        tokens[:, -tiny.zeros :] = 0
    extra: dict[str, Any] = {
        "pooled_output": torch.randn(batch, POOLED, generator=draw) if tiny.pooled else None,
        "strength": 1.0,
    }
    if tiny.mask:
        extra["attention_mask"] = torch.ones(tokens.shape[:2], dtype=torch.long)
        extra["attention_mask"][:, -tiny.mask :] = 0
    return [[tokens, extra]]


def real(family: str) -> slice:
    """The places of the family's text in `prompt`."""
    tiny = FAMILIES[family]
    return slice(tiny.first, tiny.tokens - tiny.mask - tiny.zeros)


def sample(model: Any, family: str, positive: Any, negative: Any, cfg: float = 3.0, steps: int = 2) -> Tensor:
    """What the host's KSampler node does."""
    start = torch.randn(1, *FAMILIES[family].latent, generator=torch.Generator().manual_seed(5))
    return comfy.sample.sample(
        model, start, steps, cfg, "euler", "simple", positive, negative, torch.zeros_like(start), seed=5,
        disable_pbar=True,
    )  # fmt: skip
