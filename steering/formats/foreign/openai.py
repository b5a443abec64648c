"""OpenAI's sparse_autoencoder (Gao et al., arXiv 2406.04093): one pickle that also names its activation.

pre_bias, encoder.weight, latent_bias, decoder.weight. An autoencoder whose activation is TopK standardises its input
(mean and deviation of each token) and undoes that after decoding; nothing else in the file says so.
"""

from __future__ import annotations

from ..fields import Field
from .dictionary import Dictionary
from .file import ForeignFile

TITLE = "OpenAI"

STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def matches(file: ForeignFile) -> bool:
    said = {*file.extras, *(file.config.mapping() if file.config is not None else ())}
    return {"pre_bias", "latent_bias", "encoder.weight"} <= file.names and "activation" in said


def read(file: ForeignFile) -> Dictionary:
    told = Field(str(file.path), "", dict(file.extras)) if "activation" in file.extras else file.config
    if told is None or "activation" not in told.mapping():
        file.refuse(
            "the name of its activation, which decides how its input is standardised",
            "none in the file or beside it",
            "Convert the original .pt file with `python -m steerdit convert`.",
        )
    activation = told.mapping()["activation"].one_of(
        ("ReLU", "TopK"), "With another activation codes can be negative, which no bundle says."
    )
    file.only(
        ("pre_bias", "latent_bias", "encoder.weight", "decoder.weight", *STATISTICS), "OpenAI's autoencoder"
    )
    decoder_bias, bias = file.vector("pre_bias"), file.vector("latent_bias")
    encoder, decoder = file.matrices("encoder.weight", "decoder.weight", bias.numel(), decoder_bias.numel())
    k = None
    if activation == "TopK":
        state = told.mapping().get("activation_state_dict")
        fields = {} if state is None else state.mapping()
        if not {"k", "postact_fn"} <= set(fields):
            told.at("activation_state_dict", None).refuse("k and postact_fn", "neither or one of them")
        fields["postact_fn"].one_of(("ReLU",), "Codes that can be negative are not what a bundle says.")
        k = fields["k"].integer(1, bias.numel())
    return Dictionary(
        tensors=file.tensors,
        encoder=encoder,
        decoder=decoder,
        encoder_bias=bias,
        decoder_bias=decoder_bias,
        activation="relu" if k is None else "topk",
        k=k,
        input_norm="none" if k is None else "layer_norm",
    )
