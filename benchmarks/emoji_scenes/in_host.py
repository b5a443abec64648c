"""The world's models as objects of the host: its CLIP around MiniLM, a VAE around the linear codec, loaded generators.

Imported only where the host is on the path: by the demo's loader nodes and by the benchmarks.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy import latent_formats, sd1_clip
from comfy.text_encoders.bert import BertModel
from safetensors.torch import load_file
from torch import Tensor

from . import text, weights
from .codec import LinearCodec

# What the host applies between a model and its VAE.
LATENT_FORMATS = {"flux": latent_formats.Flux, "sd3": latent_formats.SD3}


class _MiniLM(sd1_clip.SDClipModel):
    def __init__(
        self,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=json.loads((text.folder() / "config.json").read_text()),
            special_tokens={"start": 101, "end": 102, "pad": 0},
            model_class=BertModel,
            enable_attention_masks=True,
            model_options=model_options or {},
        )


class _Model(sd1_clip.SD1ClipModel):
    def __init__(
        self,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            name="minilm",
            clip_model=_MiniLM,
            **kwargs,
        )

    def encode_token_weights(self, token_weight_pairs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Token states (1, L, 384) and, as the pooled output, their mean: the sentence embedding before its norm."""
        states = super().encode_token_weights(token_weight_pairs)[0]
        return states, states.mean(1)


class _Tokens(sd1_clip.SDTokenizer):
    def __init__(
        self, embedding_directory: str | None = None, tokenizer_data: dict[str, Any] | None = None
    ) -> None:
        from transformers import BertTokenizer

        super().__init__(
            str(text.folder()),
            max_length=256,
            pad_with_end=False,
            pad_to_max_length=False,
            embedding_directory=embedding_directory,
            embedding_size=text.WIDTH,
            embedding_key="minilm",
            tokenizer_class=BertTokenizer,
            tokenizer_data=tokenizer_data or {},
        )


class _Tokenizer(sd1_clip.SD1Tokenizer):
    def __init__(
        self, embedding_directory: str | None = None, tokenizer_data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(embedding_directory, tokenizer_data or {}, name="minilm", tokenizer=_Tokens)


def text_encoder() -> comfy.sd.CLIP:
    """MiniLM as an ordinary CLIP object."""
    target = SimpleNamespace(params={}, clip=_Model, tokenizer=_Tokenizer)
    clip = comfy.sd.CLIP(target, parameters=22_700_000)
    state = {
        f"bert.{k}": v
        for k, v in load_file(text.folder() / "model.safetensors").items()
        if "pooler" not in k and "position_ids" not in k
    }
    clip.cond_stage_model.minilm.transformer.load_state_dict(state, strict=True)
    return clip


class LatentCodec:
    """The linear codec as a VAE: pictures (B, H, W, 3) ↔ unscaled latents (B, 16, H/8, W/8) of an architecture."""

    latent_channels, downscale_ratio, upscale_ratio = 16, 8, 8

    def __init__(self, architecture: str = "flux") -> None:
        self.codec, self.format = LinearCodec.load(weights.path("codec")), LATENT_FORMATS[architecture]()

    def pictures(self, samples: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1]"""
        return self.codec.decode(self.format.process_in(samples.float().cpu()))

    def decode(self, samples: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        return self.pictures(samples).movedim(1, -1).to(comfy.model_management.intermediate_device())

    def encode(self, pixels: Tensor) -> Tensor:
        z = self.codec.encode(pixels[..., :3].float().cpu().movedim(-1, 1))
        return self.format.process_out(z).to(comfy.model_management.intermediate_device())

    def spacial_compression_encode(self) -> int:
        return 8

    def spacial_compression_decode(self) -> int:
        return 8

    def temporal_compression_decode(self) -> None:
        return None


def generator(architecture: str = "flux", path: Path | None = None) -> Any:
    """A generator through the host's own loader (the code behind *Load Diffusion Model*) → its ModelPatcher."""
    return comfy.sd.load_diffusion_model(str(path or weights.path(weights.GENERATORS[architecture])))


def editor(checkpoint: Path | None = None) -> Any:
    """The generator that edits what *Set Reference Latent* gives it: the shipped one, or that of a checkpoint.

    A checkpoint of training (.pt) gives its average.
    """
    if checkpoint is not None and checkpoint.suffix == ".pt":
        return comfy.sd.load_diffusion_model_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return generator(path=checkpoint or weights.editor())
