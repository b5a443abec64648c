"""The text of a CONDITIONING: which of its tokens a family's generator reads as the prompt, and steering these.

A CONDITIONING is a list of [tokens (B, T, d), a dict of everything else]. Nodes share it through the host's cache, so
nothing in it is ever written to; what is not text (pooled states, masks, reference latents, ...) goes on as it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor

from ..steering.errors import SteeringError
from ..steering.firing import FiringRecord
from ..steering.formats.directions import Encoder
from ..steering.modifiers import Modifier, Step
from ..steering.sites import Site
from .families.sd3 import CLIP_TOKENS, CLIP_WIDTH
from .fingerprint import text_fingerprint

TEXT = Site("text")
Conditioning = Sequence[Any]


@dataclass(frozen=True)
class Slot:
    """Where a family's conditioning holds the tokens of its text encoder."""

    encoder: str
    """For people."""
    names: tuple[str, ...]
    """What the host calls those that the family has been released with."""
    first: int = 0
    """Tokens before this one are another encoder's, unless `beyond` tells them."""
    beyond: int | None = None
    """Of the released models: tokens that are zero from this channel on are another encoder's, however many."""
    pooled: bool | None = None
    """Whether there is a pooled state beside them; None: either."""
    part: str | None = None
    """Of the host's CLIP, where it holds other encoders too."""
    pooled_width: int | None = None
    """Of the released models, whose tokens have RELEASED_WIDTH."""


RELEASED_WIDTH = 4096
"""T5-XXL's, which several families share, so that only what stands beside it tells them apart."""

SLOTS: Mapping[str, Slot] = {
    "flux": Slot("T5", ("t5xxl",), pooled=True, part="t5xxl", pooled_width=768),
    "sd3": Slot(
        "T5, after 77 tokens of CLIP",
        ("t5xxl",),
        CLIP_TOKENS,
        CLIP_WIDTH,
        pooled=True,
        part="t5xxl",
        pooled_width=2048,
    ),
    "flux2": Slot("Mistral or Qwen3", ("mistral3_24b", "qwen3_4b", "qwen3_8b"), pooled=False),
    "qwen_image": Slot("Qwen2.5-VL", ("qwen25_7b",), pooled=False),
    "z_image": Slot("Qwen3", ("qwen3_4b",), pooled=False),
    "lumina2": Slot("Gemma", ("gemma2_2b", "gemma3_4b")),
    "hunyuan_video": Slot("Llama or Qwen2.5-VL", ("llama", "qwen25_7b"), part="llama"),
    "wan": Slot("umT5", ("umt5xxl",), pooled=False),
    "ltx": Slot("T5", ("t5xxl",), pooled=False),
}

OTHERS: Mapping[str, str] = {
    "conditioning_llama3": "HiDream",
    "conditioning_mt5xl": "HunyuanDiT",
    "conditioning_lyrics": "ACE-Step",
    "t5xxl_ids": "Anima",
    "unprocessed_ltxav_embeds": "LTX with audio",
    "minimax_token_tags": "MiniMax",
}
"""Keys that only conditionings of other families have."""


def steer_conditioning(
    conditioning: Conditioning,
    family: str,
    modifier: Modifier,
    observe: Callable[[FiringRecord], None] | None = None,
) -> Conditioning:
    """The conditioning with its text tokens changed; the very same one where nothing acts.

    Each prompt of a batch is gated for itself. An entry that is changed gets a tensor and a dict of its own.

    Args:
        observe: receives one record for each prompt that has text, in order; its picture is the prompt's number.

    Raises:
        SteeringError: the conditioning is another family's, or has tokens of another width.
    """
    steered: list[Any] = []
    changed = False
    number = count()
    for tokens, extra in conditioning:
        result = tokens
        for row, places in enumerate(text_places(family, tokens, extra, modifier.width)):
            before = tokens[row, places][None]  # a copy, (1, L, d)
            step = Step(TEXT, math.inf, images=(next(number),), observe=observe)
            after = modifier(before, step)
            if after is not before:
                result = tokens.clone() if result is tokens else result
                result[row, places] = after[0]
        changed = changed or result is not tokens
        steered.append([tokens, extra] if result is tokens else [result, dict(extra)])
    return steered if changed else conditioning


def encoder_fingerprint(clip: Any, family: str) -> str:
    """The fingerprint of the text encoder whose states are a family's text."""
    return text_fingerprint(clip, _slot(family).part)


def require_kind(encoders: Iterable[str], family: str, where: str = "CLIP") -> None:
    """A SteeringError if text encoders of these names are another family's; one of no known name may be anybody's."""
    slot = _slot(family)
    found = set(encoders) & {name for other in SLOTS.values() for name in other.names}
    if found and not found & set(slot.names):
        raise SteeringError(
            where,
            expected=f"{slot.encoder}, which {family} has ({' or '.join(slot.names)})",
            found=", ".join(sorted(found)),
            remedy="Choose the family of this text encoder, or load the family's own.",
        )


def require_encoder(clip: Any, family: str, encoder: Encoder) -> None:
    """A SteeringError unless a CLIP holds the encoder that directions live among, as far as that is known."""
    found = encoder_fingerprint(clip, family)
    if encoder.fingerprint not in (None, found):
        raise SteeringError(
            "CLIP",
            expected=f"{encoder.name} with the fingerprint {encoder.fingerprint}, as the bundle names",
            found=f"a text encoder with the fingerprint {found}",
            remedy="Load the text encoder that the bundle was made for. If this is the same in another precision, "
            "leave clip unconnected.",
        )


def text_states(clip: Any, family: str, prompts: Sequence[str]) -> Iterator[Tensor]:
    """The tokens (L, d) that `steer_conditioning` would look at, of each prompt in turn, in float32 on the CPU.

    A gate that is calibrated on these opens as often on benign prompts as it was calibrated to: marks and padding that
    a conditioning does not tell from words are among them here and there alike.

    Raises:
        SteeringError: the CLIP is another family's.
    """
    for prompt in prompts:
        entry: Any = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0]
        tokens, extra = entry
        (places,) = text_places(family, tokens, extra)
        yield tokens[0, places].float().cpu()


def text_places(
    family: str, tokens: Any, extra: Mapping[str, Any], width: int | None = None
) -> Iterator[Tensor]:
    """For each row of tokens (B, T, d): the places (L) of the family's text, without what is known to be padding.

    Args:
        width: the d that is expected; None takes any.

    Raises:
        SteeringError: the conditioning is another family's, or has tokens of another width.
    """
    slot = _slot(family)
    _require_family(family, slot, tokens, extra)
    if width is not None and tokens.shape[-1] != width:
        raise SteeringError(
            "CONDITIONING",
            expected=f"tokens of width {width}, as the directions have",
            found=f"width {tokens.shape[-1]}",
            remedy="Choose a bundle made for this text encoder, or the text encoder that the bundle was made for.",
        )
    real = _own(slot, tokens)
    if not real.any():
        _require_text(family, slot, tokens)
    mask = extra.get("attention_mask")
    # A mask of pairs of tokens, as Redux makes them, says nothing of padding.
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[0] in (1, len(real)):
        lacking = real.shape[1] - mask.shape[1]
        others = int(real.any(0).int().argmax()) if slot.first else 0  # another encoder's
        if lacking in (0, slot.first, others):
            real[:, lacking:] &= mask.to(real.device).ne(0)
    for row in real:
        yield row.nonzero()[:, 0]


def _own(slot: Slot, tokens: Tensor) -> Tensor:
    """Which tokens (B, T) are of the slot's encoder and not zeros, with which encoders and the host pad."""
    if slot.beyond is not None and tokens.shape[-1] == RELEASED_WIDTH:
        return tokens[..., slot.beyond :].ne(0).any(-1)
    own = tokens.ne(0).any(-1)
    own[:, : slot.first] = False
    return own


def _slot(family: str) -> Slot:
    if family not in SLOTS:
        raise SteeringError(
            "family",
            expected=f"one of {', '.join(SLOTS)}",
            found=repr(family),
            remedy="SteerDiT does not know where this family's conditioning holds its text.",
        )
    return SLOTS[family]


def _require_family(family: str, slot: Slot, tokens: Any, extra: Mapping[str, Any]) -> None:
    """Refuses what cannot be a conditioning of the family."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 3 or not tokens.is_floating_point():
        kind = type(tokens).__name__
        found = f"{tokens.dtype} of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else kind
        raise _other(family, f"tokens (B, T, d) of {slot.encoder}", found)
    for key, other in OTHERS.items():
        if key in extra:
            raise _other(family, f"text of {slot.encoder} alone", f"a conditioning of {other} ({key})")
    pooled = extra.get("pooled_output")
    if slot.pooled is not None and slot.pooled != isinstance(pooled, Tensor):
        with_it = {True: "with a pooled state", False: "without a pooled state"}
        raise _other(family, with_it[slot.pooled], with_it[not slot.pooled])
    wide = pooled.shape[-1] if isinstance(pooled, Tensor) and tokens.shape[-1] == RELEASED_WIDTH else None
    if wide not in (None, slot.pooled_width or wide):
        raise _other(family, f"a pooled state of width {slot.pooled_width}", f"width {wide}")


def _require_text(family: str, slot: Slot, tokens: Tensor) -> None:
    """Refuses what holds nothing of the slot's encoder; zeros throughout are a prompt that was zeroed out."""
    told = slot.beyond is not None and tokens.shape[-1] == RELEASED_WIDTH
    if tokens.ne(0).any() if told else tokens.shape[1] <= slot.first:
        raise SteeringError(
            "CONDITIONING",
            expected=f"tokens of {slot.encoder}"
            if told
            else f"more than {slot.first} tokens, as {family} has with {slot.encoder}",
            found="CLIP's alone" if told else f"{tokens.shape[1]}",
            remedy="Load the T5 text encoder as well: there is nothing here that the directions are for.",
        )


def _other(family: str, expected: str, found: str) -> SteeringError:
    return SteeringError(
        "CONDITIONING",
        expected=f"a conditioning of the family {family}, {expected}",
        found=found,
        remedy="Choose a bundle made for this text encoder, or the text encoder that the bundle was made for.",
    )
