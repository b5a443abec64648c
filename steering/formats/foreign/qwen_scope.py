"""Qwen-Scope: `layer{n}.sae.pt`, four tensors and no configuration.

W_enc (N, d), W_dec (d, N), b_enc, b_dec: SAELens's names, the other way round. TopK, whose k stands in the
repository's name (`...-L0_50`); the decoder's bias is not taken off the input.
"""

from __future__ import annotations

import re

from .dictionary import Dictionary
from .file import ForeignFile

TITLE = "Qwen-Scope"

_COUNT = re.compile(r"L0_(\d{1,6})(?!\d)")


def matches(file: ForeignFile) -> bool:
    """Never by its names alone, which a SAELens file without its configuration has too."""
    return (
        file.config is None
        and set(file.names) == {"W_enc", "W_dec", "b_enc", "b_dec"}
        and any("SAE-Res" in part for part in file.path.parts)
    )


def read(file: ForeignFile) -> Dictionary:
    file.only(("W_enc", "W_dec", "b_enc", "b_dec"), "a Qwen-Scope autoencoder")
    decoder_bias, bias = file.vector("b_dec"), file.vector("b_enc")
    encoder, decoder = file.matrices("W_enc", "W_dec", bias.numel(), decoder_bias.numel())
    return Dictionary(
        tensors=file.tensors,
        encoder=encoder,
        decoder=decoder,
        encoder_bias=bias,
        decoder_bias=decoder_bias,
        activation="topk",
        k=_count(file, bias.numel()),
        centred=False,
        elsewhere="the residual stream of a Qwen language model",
    )


def _count(file: ForeignFile, latents: int) -> int:
    named = [int(found[1]) for part in file.path.parts if (found := _COUNT.search(part))]
    k = file.declared.k or (named[-1] if named else None)
    if k is None or not 1 <= k <= latents:
        file.refuse(
            f"k, 1 to {latents}, in the name of a folder (`...-L0_50`)",
            "none" if k is None else f"{k}",
            "Say k: it is the number after L0_ in the repository's name.",
        )
    return k
