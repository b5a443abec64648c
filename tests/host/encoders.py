"""Tiny random text encoders of several families, built by the host's own classes with its own tokenizers."""

from __future__ import annotations

import io
from functools import cache
from types import SimpleNamespace
from typing import Any

import comfy.sd
import sentencepiece
import torch
from comfy.text_encoders import (
    flux,
    genmo,
    hunyuan_video,
    lumina2,
    qwen_image,
    sd3_clip,
    wan,
    z_image,
)

CLIP: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "projection_dim": 16
}  # fmt: skip
T5: dict[str, Any] = {"d_model": 24, "d_ff": 32, "d_kv": 8, "num_heads": 3, "num_layers": 3}
LLAMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 4,
}  # fmt: skip
SIZES: dict[str, Any] = {
    **{f"{name}_model_config": CLIP for name in ("clip_l", "clip_g")},
    **{f"{name}_model_config": T5 for name in ("t5xxl", "umt5xxl")},
    **{f"{name}_model_config": LLAMA for name in ("llama", "qwen3_4b", "qwen25_7b", "gemma2_2b")},
}
OTHER_SIZES: dict[str, dict[str, Any]] = {
    "sd3": {
        "clip_l_model_config": {**CLIP, "hidden_size": 768},
        "clip_g_model_config": {**CLIP, "hidden_size": 1280},
        "t5xxl_model_config": {**T5, "d_model": 4096},
    },
    "flux2": {"qwen3_4b_model_config": {**LLAMA, "num_hidden_layers": 28}},
}
"""SD3's code knows the widths of what was released, and Klein's reads the layers 9, 18 and 27."""
KINDS: dict[str, tuple[Any, Any]] = {
    "flux": (flux.FluxTokenizer, flux.flux_clip()),
    "sd3": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(dtype_t5=torch.float16)),
    "z_image": (z_image.ZImageTokenizer, z_image.te()),
    "qwen_image": (qwen_image.QwenImageTokenizer, qwen_image.te()),
    "hunyuan_video": (hunyuan_video.HunyuanVideoTokenizer, hunyuan_video.hunyuan_video_clip()),
    "ltx": (genmo.MochiT5Tokenizer, genmo.mochi_te()),
    "wan": (wan.WanT5Tokenizer, wan.te()),
    "lumina2": (lumina2.LuminaTokenizer, lumina2.te()),
}
if hasattr(flux, "KleinTokenizer"):  # not in the oldest host
    KINDS["flux2"] = flux.KleinTokenizer, flux.klein_te()
PIECES = ("wan", "lumina2")
"""Families whose tokenizer comes with the weights: here it is one that is trained on the spot."""
SENTENCES = ("a bloody cat on a blue background", "a dog, asleep on a chair", "a cat asleep, a cat asleep,")


@cache
def pieces() -> torch.Tensor:
    """A small SentencePiece model, as a file of weights holds it."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3), model_writer=written, vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)


def tiny_clip(family: str, seed: int = 0) -> Any:
    """A CLIP object as the host's loaders make it, with small random weights in float32."""
    tokenizer, encoder = KINDS[family]
    target = SimpleNamespace(params={}, clip=encoder, tokenizer=tokenizer)
    sizes = {**SIZES, **OTHER_SIZES.get(family, {})}
    clip = comfy.sd.CLIP(
        target,
        tokenizer_data={"spiece_model": pieces()} if family in PIECES else {},
        model_options={**sizes, "dtype": torch.float32},
    )
    draw = torch.Generator().manual_seed(seed)
    for name, weight in clip.cond_stage_model.state_dict().items():
        fan_in = weight.shape[-1] if weight.ndim > 1 else 1
        noise = (torch.randn(weight.shape, generator=draw) / fan_in**0.5).to(weight)
        weight.copy_(1 + 0.1 * noise if name.endswith("norm.weight") or weight.ndim == 1 else noise)
    return clip
