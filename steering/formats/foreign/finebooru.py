"""RE-N-Y's FLUX autoencoders (library finebooru): `model.safetensors` with `config.json`, in a folder named by site.

encoder.weight, encoder.bias, decoder.weight, bias; ReLU, then TopK. The folder ends like `transformer_blocks.18-1`: the
number after the block is the place in the diffusers block's output, 0 for text and 1 for image. A ComfyUI block gives
them the other way round, which is why the stream is read here and not left to memory.
"""

from __future__ import annotations

import re

from ...sites import Site
from .dictionary import Dictionary
from .file import ForeignFile

TITLE = "finebooru"

STREAMS = ("text", "image")
_PLACE = re.compile(r"(?:^|-)transformer_blocks\.(0|[1-9]\d{0,3})-([01])$")


def matches(file: ForeignFile) -> bool:
    return file.config is not None and {"features", "pages", "k"} <= set(file.config.mapping())


def read(file: ForeignFile) -> Dictionary:
    config = file.settings("features pages k")
    file.only(("encoder.weight", "encoder.bias", "decoder.weight", "bias"), "a finebooru TopK autoencoder")
    decoder_bias, bias = file.vector("bias"), file.vector("encoder.bias")
    file.agrees(config["features"], decoder_bias)
    file.agrees(config["pages"], bias)
    encoder, decoder = file.matrices("encoder.weight", "decoder.weight", bias.numel(), decoder_bias.numel())
    return Dictionary(
        tensors=file.tensors,
        encoder=encoder,
        decoder=decoder,
        encoder_bias=bias,
        decoder_bias=decoder_bias,
        activation="topk",
        k=config["k"].integer(1, bias.numel()),
        site=_site(file.path.parent.name) or _site(file.path.stem),
    )


def _site(name: str) -> Site | None:
    """The double block that a folder's or a file's name ends with; a single block has both streams in one."""
    found = _PLACE.search(name)
    return None if found is None else Site("double", int(found[1]), STREAMS[int(found[2])])
