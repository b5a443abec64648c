"""A loader for small FLUX models in hosts that take every FLUX for one of 24 heads, as 0.3.75 does."""

from __future__ import annotations

from typing import Any

import comfy.model_detection
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch

NAME = "Tests_LoadSmallFlux"


class LoadSmallFlux:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  (the host's name)
        return {"required": {"unet_name": (folder_paths.get_filename_list("diffusion_models"),)}}

    def load(self, unet_name: str) -> tuple[Any]:
        state: Any = comfy.utils.load_torch_file(
            folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
        )
        settings = comfy.model_detection.detect_unet_config(state, "")
        settings["num_heads"] = settings["hidden_size"] // sum(settings["axes_dim"])
        config: Any = comfy.model_detection.model_config_from_unet_config(settings, state)
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(state, "")
        model.load_model_weights(dict(state), "")
        cpu = torch.device("cpu")
        return (comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu),)


NODE_CLASS_MAPPINGS = {NAME: LoadSmallFlux}
