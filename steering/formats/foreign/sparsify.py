"""EleutherAI's sparsify: `<hookpoint>/sae.safetensors` with `cfg.json`.

encoder.weight, encoder.bias, W_dec, b_dec; ReLU before TopK, which keeps the same latents as after it.
"""

from __future__ import annotations

import re

from .dictionary import Dictionary
from .file import ForeignFile

TITLE = "sparsify"

REMEDY = "Only TopK autoencoders of one activation can steer it."
CHANGES: dict[str, str] = {
    "transcode": "A transcoder reads another place than it writes to.",
    "skip_connection": "A skip connection is no part of a dictionary.",
    "signed": "Signed codes can be negative.",
}
"""Settings that must be false, and why."""
HOSTS = {
    "a block of a UNet": re.compile(r"(up|down|mid)_blocks?\b"),
    "a layer of a language model": re.compile(r"(^|\.)(layers|h)\.\d+"),
}
"""Where a hookpoint, which is the folder's name, lies when it is no site."""


def matches(file: ForeignFile) -> bool:
    return {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} <= file.names


def read(file: ForeignFile) -> Dictionary:
    config = file.settings("k d_in")
    if "activation" in config:
        config["activation"].one_of(
            ("topk",), f"groupmax lets each group of latents keep its largest, which no bundle says. {REMEDY}"
        )
    for name, reason in CHANGES.items():
        if name in config and config[name].value not in (False, None):
            config[name].refuse("false", remedy=f"{reason} {REMEDY}")
    file.only(("encoder.weight", "encoder.bias", "W_dec", "b_dec"), "a sparsify autoencoder")
    decoder_bias, bias = file.vector("b_dec"), file.vector("encoder.bias")
    file.agrees(config["d_in"], decoder_bias)
    if config.get("num_latents") is not None and config["num_latents"].value:
        file.agrees(config["num_latents"], bias)
    hookpoint = file.path.parent.name[:200]
    encoder, decoder = file.matrices("encoder.weight", "W_dec", bias.numel(), decoder_bias.numel())
    return Dictionary(
        tensors=file.tensors,
        encoder=encoder,
        decoder=decoder,
        encoder_bias=bias,
        decoder_bias=decoder_bias,
        activation="topk",
        k=config["k"].integer(1, bias.numel()),
        elsewhere=next((host for host, pattern in HOSTS.items() if pattern.search(hookpoint)), None),
        about={"hookpoint": hookpoint},
    )
