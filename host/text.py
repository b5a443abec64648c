"""Prompts through the host's CLIP object, with the knowledge of which tokens are padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..steering.errors import SteeringError
from .fingerprint import text_fingerprint

PARTS: Mapping[frozenset[str], tuple[tuple[str, ...], ...]] = {
    frozenset(("l", "t5xxl")): (("t5xxl",),),
    frozenset(("l", "g", "t5xxl")): (("l", "g"), ("t5xxl",)),
}
"""The host's tokenizers of a model -> those whose tokens stand one after the other in its conditioning; tokens of those
in one group are laid over each other (FLUX, SD3)."""


class PromptEncoder:
    """What a recording asks of a CLIP object."""

    def __init__(self, clip: Any) -> None:
        self.clip = clip

    def fingerprint(self) -> str:
        """A SHA-256 that tells these text encoders from others."""
        return text_fingerprint(self.clip)

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """The conditioning (1, L, C) and the pooled state (1, P)."""
        tokens, extra = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0]
        return tokens, extra["pooled_output"]

    def places(self, text: str) -> list[int]:
        """The places of the conditioning that hold words or the marks around them, not padding; rising.

        Found from the tokenizer alone, so that a long list is looked through before any of it is encoded. Padding is
        what follows the first end mark of a chunk.

        Raises:
            SteeringError: the text encoder is of a kind that we do not know.
        """
        chunks_of: Mapping[str, Sequence[Sequence[Sequence[Any]]]] = self.clip.tokenize(text)
        groups = ((next(iter(chunks_of)),),) if len(chunks_of) == 1 else PARTS.get(frozenset(chunks_of))
        if groups is None:
            raise SteeringError(
                "CLIP",
                expected="the text encoders of FLUX (l, t5xxl) or SD3 (l, g, t5xxl), or a single one",
                found=", ".join(chunks_of),
                remedy="Load the text encoders that belong to the model.",
            )
        found: list[int] = []
        start = 0
        for group in groups:
            name = next((name for name in group if self._loaded(name)), None)
            if name is None:
                continue
            end = getattr(self._tokenizer(name), "end_token", None)
            for chunk in chunks_of[name]:
                ids = [token[0] for token in chunk]
                # A token may be a tensor, the vector of an embedding file.
                ends = [at for at, token in enumerate(ids) if isinstance(token, int) and token == end]
                found += range(start, start + (ends[0] + 1 if ends else len(ids)))
                start += len(ids)
        return found

    def _loaded(self, name: str) -> bool:
        model = self.clip.cond_stage_model
        return all(getattr(model, attribute, True) is not None for attribute in (name, f"clip_{name}"))

    def _tokenizer(self, name: str) -> Any:
        tokenizer = self.clip.tokenizer
        return next(
            (
                getattr(tokenizer, attribute)
                for attribute in (name, f"clip_{name}")
                if hasattr(tokenizer, attribute)
            ),
            None,
        )
