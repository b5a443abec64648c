"""sdxl-unbox (arXiv 2410.22366) and Concept Steerers (arXiv 2501.19066): `state_dict.pth` with `config.json`.

OpenAI's names without its standardisation; TopK, then ReLU. sdxl-unbox trains on what a block adds to its input, and
Concept Steerers on a layer of a text encoder: neither is the activation at a site.
"""

from __future__ import annotations

from .dictionary import Dictionary
from .file import ForeignFile

TITLE = "sdxl-unbox"


def matches(file: ForeignFile) -> bool:
    return (
        {"pre_bias", "latent_bias", "encoder.weight"} <= file.names
        and file.config is not None
        and "n_dirs_local" in file.config.mapping()
    )


def read(file: ForeignFile) -> Dictionary:
    config = file.settings("n_dirs_local d_model k")
    file.only(
        ("pre_bias", "latent_bias", "encoder.weight", "decoder.weight", "stats_last_nonzero"),
        "an autoencoder of sdxl-unbox",
    )
    decoder_bias, bias = file.vector("pre_bias"), file.vector("latent_bias")
    file.agrees(config["d_model"], decoder_bias)
    file.agrees(config["n_dirs_local"], bias)
    encoder, decoder = file.matrices("encoder.weight", "decoder.weight", bias.numel(), decoder_bias.numel())
    return Dictionary(
        tensors=file.tensors,
        encoder=encoder,
        decoder=decoder,
        encoder_bias=bias,
        decoder_bias=decoder_bias,
        activation="topk",
        k=config["k"].integer(1, bias.numel()),
        elsewhere="what a block adds to its input (sdxl-unbox) or a layer of a text encoder (Concept Steerers)",
    )
