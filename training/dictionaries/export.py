"""A bundle's dictionary in SAELens's format: `cfg.json` and `sae_weights.safetensors`, for its `SAE.load_from_disk`.

SAELens has no input scale. With p = W (s·a − b_dec) + b and â = (z V + b_dec) / s, codes in the activation's own units
are z / s, so that  W' = W,  b' = b / s,  θ' = θ / s,  V' = V,  b_dec' = b_dec / s  say the same without one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.formats.bundle import Bundle
from ...steering.formats.container import write_container
from ...steering.formats.whole import whole_file
from ...steering.sites import Site

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"

NORMS = {"none": "none", "layer_norm": "layer_norm", "unit_rms": "constant_norm_rescale"}
ARCHITECTURES = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk"}


def export_saelens(bundle: Bundle, site: Site, folder: Path) -> Path:
    """Writes a site's dictionary into a folder, each file whole or not at all.

    Returns:
        the path of the weights.

    Raises:
        SteeringError: the bundle has no such site, its bytes are damaged, or the folder cannot be written.
    """
    entry, tensors = bundle.entry(site), bundle.read_sae(site)
    scale = entry.input_scale
    weights: dict[str, Tensor] = {
        "W_enc": tensors.encoder.T,
        "b_enc": tensors.encoder_bias.double() / scale,
        "W_dec": tensors.decoder,
        "b_dec": tensors.decoder_bias.double() / scale,
    }
    if entry.activation == "jumprelu":
        assert tensors.threshold is not None
        weights["threshold"] = tensors.threshold.double() / scale
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[entry.activation],
        "d_in": entry.width,
        "d_sae": entry.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": NORMS[entry.input_norm],
        "reshape_activations": "none",
        "metadata": {"model_name": bundle.header.base.name, "hook_name": str(site), "made_by": bundle.name},
    }
    if entry.activation == "topk":
        config |= {"k": entry.k, "rescale_acts_by_decoder_norm": False}
    contents = {name: _bytes(tensor) for name, tensor in weights.items()}
    with whole_file(folder / CONFIG, SteeringError) as described:
        described.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        with whole_file(folder / WEIGHTS, SteeringError) as partial:
            write_container(partial, {}, contents)
    return folder / WEIGHTS


def _bytes(tensor: Tensor) -> tuple[str, tuple[int, ...], memoryview]:
    plain = tensor.float().contiguous()
    return "F32", tuple(plain.shape), plain.flatten().view(torch.uint8).numpy().data
