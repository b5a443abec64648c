"""SAELens: `sae_weights.safetensors` with `cfg.json`, before and since its version 6.

W_enc (d, N), W_dec (N, d), b_enc, b_dec; gated: b_gate, b_mag, r_mag; jumprelu: threshold, once log_threshold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..fields import Field, parse_json
from .dictionary import Dictionary, gated
from .file import ForeignFile

TITLE = "SAELens"

SCALER = "activation_scaler.json"

NORMS = {
    "none": "none",
    "expected_average_only_in": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "unit_rms",
}
LANGUAGE_MODEL_HOOK = re.compile(r"blocks\.\d+\.(hook_|attn\.|mlp\.|ln\d)|hook_embed|ln_final")

REMEDY = "Only standard, gated, topk and jumprelu autoencoders of one activation can steer it."


def matches(file: ForeignFile) -> bool:
    config = {} if file.config is None else file.config.mapping()
    return {"W_dec", "b_dec"} <= file.names and "d_sae" in config


def read(file: ForeignFile) -> Dictionary:
    config = _since_6(file.settings("d_in d_sae"))
    architecture = _text(config, "architecture", "standard")
    if architecture not in ("standard", "gated", "topk", "jumprelu"):
        config["architecture"].refuse(
            "standard, gated, topk or jumprelu",
            remedy="A batchtopk or matryoshka_batchtopk autoencoder is a training state: save it with SAELens's "
            f"`save_inference_model`, which makes a jumprelu of it. {REMEDY}",
        )
    activation = _text(config, "activation_fn", "relu")
    if activation != ("topk" if architecture == "topk" and "activation_fn" in config else "relu"):
        config["activation_fn"].refuse("relu, or topk with its k", remedy=REMEDY)
    if _text(config, "reshape_activations", "none") != "none":
        config["reshape_activations"].refuse("none", remedy="No site has attention heads. " + REMEDY)
    _refuse_finetuned(file)
    decoder_bias = file.vector("b_dec")
    bias = file.vector("b_gate" if architecture == "gated" else "b_enc")
    file.agrees(config["d_in"], decoder_bias)
    file.agrees(config["d_sae"], bias)
    encoder, decoder = file.matrices("W_enc", "W_dec", bias.numel(), decoder_bias.numel())
    return Dictionary(
        tensors=file.tensors,
        encoder=encoder,
        decoder=decoder,
        decoder_bias=decoder_bias,
        **_activation(file, architecture, config, bias),
        **_input(file, config),
        **_origin(config),
    )


def _since_6(fields: Mapping[str, Field]) -> dict[str, Field]:
    """The configuration with the names that it has since version 6."""
    renamed = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    config = {renamed.get(name, name): field for name, field in fields.items() if field.value is not None}
    if "metadata" in config:
        config = {**config["metadata"].mapping(), **config}
    if config.get("activation_fn") is not None and config["activation_fn"].value == "topk":
        given = config.get("activation_fn_kwargs")
        k = given.mapping().get("k") if given is not None else config.get("k")
        if k is None:
            config["activation_fn"].refuse("topk with its k in activation_fn_kwargs", "no k")
        config |= {"k": k, "architecture": k.at("architecture", "topk")}
    return config


def _activation(
    file: ForeignFile, architecture: str, config: Mapping[str, Field], bias: torch.Tensor
) -> dict[str, Any]:
    known, latents = {"W_enc", "W_dec", "b_dec", "scaling_factor"}, bias.numel()
    if architecture == "gated":
        file.only({*known, "b_gate", "b_mag", "r_mag"}, "a gated SAELens autoencoder")
        return gated(bias, file.vector("b_mag", latents), file.vector("r_mag", latents))
    if architecture == "jumprelu":
        name = "log_threshold" if "log_threshold" in file.names else "threshold"
        file.only({*known, "b_enc", name}, "a jumprelu SAELens autoencoder")
        threshold = file.vector(name, latents)
        threshold = threshold.exp() if name == "log_threshold" else threshold
        return {"activation": "jumprelu", "encoder_bias": bias, "threshold": threshold}
    file.only({*known, "b_enc"}, f"a {architecture} SAELens autoencoder")
    if architecture == "standard":
        return {"activation": "relu", "encoder_bias": bias}
    if "k" not in config:
        config["d_sae"].at("k", None).refuse(f"a whole number, 1 to {latents}, as topk needs")
    return {
        "activation": "topk",
        "encoder_bias": bias,
        "k": config["k"].integer(1, latents),
        "ranked_by_norm": _flag(config, "rescale_acts_by_decoder_norm", False),
    }


def _input(file: ForeignFile, config: Mapping[str, Field]) -> dict[str, Any]:
    centred = _flag(config, "apply_b_dec_to_input", True)
    norm = config.get("normalize_activations")
    if norm is None or norm.value is False:
        return {"centred": centred}
    name = "expected_average_only_in" if norm.value is True else norm.one_of(
        NORMS,
        "Whitening has to be folded into the weights first (SAELens's `fold_activation_whitening`). "
        "Other normalisations are not known.",
    )  # fmt: skip
    scale = 1.0
    if name == "expected_average_only_in":
        scale = file.declared.input_scale or _stored_scale(file)
        if scale is None:
            norm.refuse(
                "none, or the factor by which activations were scaled in training",
                f"{norm.value!r} without {SCALER} beside the file",
                "Say the input scale: SAELens calls it norm_scaling_factor. It is 1 if it is folded in already.",
            )
    return {"centred": centred, "input_norm": NORMS[name], "input_scale": scale}


def _stored_scale(file: ForeignFile) -> float | None:
    """The factor that SAELens's trainer leaves beside its checkpoints."""
    path = file.path.with_name(SCALER)
    if not path.is_file():
        return None
    root = Field(str(path), "", parse_json(path.read_bytes(), str(path))).mapping()
    return root["scaling_factor"].optional(lambda it: it.number(1e-30)) if "scaling_factor" in root else None


def _refuse_finetuned(file: ForeignFile) -> None:
    """Older files may hold a factor per latent for the decoder, nearly always 1."""
    if "scaling_factor" in file.names and bool((file.vector("scaling_factor") != 1).any()):
        file.refuse("factors of 1", "other ones", "Fold them into W_dec first.", at="scaling_factor")


def _origin(config: Mapping[str, Field]) -> dict[str, Any]:
    told = {name: str(config[name].value)[:200] for name in ("model_name", "hook_name") if name in config}
    hook = told.get("hook_name", "")
    elsewhere = None
    if LANGUAGE_MODEL_HOOK.match(hook):
        elsewhere = f"the hook {hook} of the language model {told.get('model_name', 'that it names')}"
    return {"elsewhere": elsewhere, "about": told}


def _text(config: Mapping[str, Field], name: str, default: str) -> str:
    return config[name].text(longest=200) if name in config else default


def _flag(config: Mapping[str, Field], name: str, default: bool) -> bool:
    value = config[name].value if name in config else default
    if not isinstance(value, bool):
        config[name].refuse("true or false")
    return value
