"""dictionary_learning (saprmarks, adamkarvonen): `ae.pt` with `config.json`.

Its classes share tensor names and differ in what they do, so the configuration's `dict_class` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .dictionary import Dictionary, gated
from .file import ForeignFile

TITLE = "dictionary_learning"

Parts = dict[str, Any]


def matches(file: ForeignFile) -> bool:
    return file.config is not None and "trainer" in file.config.mapping()


def read(file: ForeignFile) -> Dictionary:
    trainer = file.settings("trainer")["trainer"].mapping()
    if "dict_class" not in trainer:
        file.settings("trainer")["trainer"].refuse("the key 'dict_class'", f"only {', '.join(trainer)}")
    kind = trainer["dict_class"].one_of(CLASSES, "Only dictionaries of one activation can steer it.")
    parts = CLASSES[kind](file)
    names = parts.pop("names")
    encoder, decoder = file.matrices(
        *names, latents=parts["encoder_bias"].numel(), width=parts["decoder_bias"].numel()
    )
    for name, vector in (("activation_dim", parts["decoder_bias"]), ("dict_size", parts["encoder_bias"])):
        if name in trainer and trainer[name].value is not None:
            file.agrees(trainer[name], vector)
    if "k" in trainer and trainer["k"].value is not None and "k" in parts:
        k = trainer["k"].integer(1, parts["encoder_bias"].numel())
        if parts["k"] != k:
            trainer["k"].refuse(f"{parts['k']}, as the file itself says")
    about = {
        name: str(trainer[name].value)[:200]
        for name in ("lm_name", "submodule_name", "layer")
        if name in trainer
    }
    return Dictionary(
        tensors=file.tensors,
        encoder=encoder,
        decoder=decoder,
        elsewhere=f"the language model {about['lm_name']}" if "lm_name" in about else None,
        about={"dict_class": kind, **about},
        **parts,
    )


def _vanilla(file: ForeignFile) -> Parts:
    file.only(("encoder.weight", "encoder.bias", "decoder.weight", "bias"), "an AutoEncoder")
    return {
        "names": ("encoder.weight", "decoder.weight"),
        "encoder_bias": file.vector("encoder.bias"),
        "decoder_bias": file.vector("bias"),
        "activation": "relu",
    }


def _april(file: ForeignFile) -> Parts:
    file.only(("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"), "an AutoEncoderNew")
    return {
        "names": ("encoder.weight", "decoder.weight"),
        "encoder_bias": file.vector("encoder.bias"),
        "decoder_bias": file.vector("decoder.bias"),
        "activation": "relu",
        "centred": False,
    }


def _gated(file: ForeignFile) -> Parts:
    vectors = ("decoder_bias", "gate_bias", "mag_bias", "r_mag")
    file.only(("encoder.weight", "decoder.weight", *vectors), "a GatedAutoEncoder")
    gate = file.vector("gate_bias")
    return {
        "names": ("encoder.weight", "decoder.weight"),
        "decoder_bias": file.vector("decoder_bias"),
        **gated(gate, file.vector("mag_bias", gate.numel()), file.vector("r_mag", gate.numel())),
    }


def _jumprelu(file: ForeignFile) -> Parts:
    """Its class takes the decoder's bias off the input only if told so after loading, which no file says."""
    file.only(("W_enc", "W_dec", "b_enc", "b_dec", "threshold"), "a JumpReluAutoEncoder")
    bias = file.vector("b_enc")
    return {
        "names": ("W_enc", "W_dec"),
        "encoder_bias": bias,
        "decoder_bias": file.vector("b_dec"),
        "activation": "jumprelu",
        "threshold": file.vector("threshold", bias.numel()),
        "centred": False,
    }


def _topk(file: ForeignFile) -> Parts:
    file.only(
        ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k", "threshold"), "a TopK autoencoder"
    )
    return {
        "names": ("encoder.weight", "decoder.weight"),
        "encoder_bias": file.vector("encoder.bias"),
        "decoder_bias": file.vector("b_dec"),
        "activation": "topk",
        "k": _count(file),
    }


def _batch_topk(file: ForeignFile) -> Parts:
    """Outside training it is a JumpReLU with one threshold for all latents."""
    parts = _topk(file)
    return {**parts, "activation": "jumprelu", "threshold": _one_threshold(file, parts["encoder_bias"])}


def _matryoshka(file: ForeignFile) -> Parts:
    file.only(
        ("W_enc", "W_dec", "b_enc", "b_dec", "k", "threshold", "group_sizes"), "a Matryoshka autoencoder"
    )
    bias = file.vector("b_enc")
    return {
        "names": ("W_enc", "W_dec"),
        "encoder_bias": bias,
        "decoder_bias": file.vector("b_dec"),
        "activation": "jumprelu",
        "k": _count(file),
        "threshold": _one_threshold(file, bias),
    }


def _count(file: ForeignFile) -> int:
    """k, which is stored as a tensor."""
    k = file.number("k")
    if k != int(k) or k < 1:
        file.refuse("a whole number, at least 1", f"{k:g}", "The file is damaged.", at="k")
    return int(k)


def _one_threshold(file: ForeignFile, bias: Tensor) -> Tensor:
    return torch.full_like(bias, file.number("threshold"))


CLASSES: Mapping[str, Callable[[ForeignFile], Parts]] = {
    "AutoEncoder": _vanilla,
    "AutoEncoderNew": _april,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jumprelu,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}
