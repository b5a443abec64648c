"""Hidden states of the text encoders that the host has loaded: what directions are estimated in and carried to.

Which of a prompt's tokens are its own is found by the tokenizer alone: what stands before and behind them is the same
for an empty prompt (marks of beginning and end, the words of a chat template), and the rest is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..steering.errors import SteeringError
from .conditioning import SLOTS, encoder_fingerprint, require_kind, text_places, text_states
from .fingerprint import text_fingerprint

Layer = int | None


class Place(NamedTuple):
    """Of one token: the chunk of the prompt that it stands in, and where."""

    chunk: int
    at: int


class HiddenLayers:
    """The residual stream of one text encoder of a CLIP: layer 0 what enters its first block, l what leaves block l."""

    def __init__(self, clip: Any, part: str | None = None) -> None:
        """``part``: as the host calls it, such as t5xxl; None is the one with the widest states.

        Raises:
            SteeringError: the CLIP has no encoder of that name, or one whose blocks are not to be found.
        """
        loaded = _encoders(clip)
        if not loaded or (part is not None and part not in loaded):
            raise SteeringError(
                "CLIP",
                expected=f"one of its text encoders: {', '.join(loaded) or 'it has none'}",
                found=repr(part),
                remedy="Leave the part empty, or name one of these.",
            )
        self.clip = clip
        self.part = part or max(loaded, key=lambda name: _width(loaded[name]))
        self.blocks = _blocks(loaded[self.part], self.part)
        self.name, self.width = self.part, _width(loaded[self.part])

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(range(len(self.blocks) + 1))

    def fingerprint(self) -> str:
        return text_fingerprint(self.clip, self.part)

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """For each text its own tokens' states (len(layers), L, d) in float32 on the CPU."""
        own = OwnTokens(self.clip, self.part)
        for text in texts:
            tokens = self.clip.tokenize(text)
            places = own.places(tokens)
            seen: dict[int, Tensor] = {}
            hooks = [self.blocks[0].register_forward_pre_hook(_keeper(seen, 0, places), with_kwargs=True)]
            try:
                for number, block in enumerate(self.blocks, 1):
                    if number in layers:
                        hooks.append(
                            block.register_forward_hook(_keeper(seen, number, places), with_kwargs=True)
                        )
                self.clip.encode_from_tokens(tokens)
            finally:
                for hook in hooks:
                    hook.remove()
            missing = [layer for layer in layers if layer not in seen]
            if missing:
                raise SteeringError(
                    f"CLIP: {self.part}",
                    expected=f"states of the layers {list(layers)}",
                    found=f"none of {missing}: its blocks did not run",
                    remedy="Load the text encoder without torch.compile.",
                )
            yield torch.stack([seen[layer] for layer in layers if layer is not None])


class TextSlot:
    """The tokens that a family's generator is given, as the only layer: its number is None.

    ``whole``: every token that is steered, as gates look at them; otherwise the prompt's own alone.
    """

    layers: tuple[Layer, ...] = (None,)

    def __init__(self, clip: Any, family: str, whole: bool = False) -> None:
        """Raises SteeringError: the CLIP is another family's."""
        require_kind(clip.tokenize(""), family)
        self.clip, self.family, self.whole = clip, family, whole
        (tokens,) = text_states(clip, family, ["a"])
        self.width = tokens.shape[-1]
        keys = list(clip.tokenize(""))
        part = SLOTS[family].part
        self.name: str = part if part is not None and part in keys else keys[-1]

    def fingerprint(self) -> str:
        return encoder_fingerprint(self.clip, self.family)

    def steered(self) -> TextSlot:
        """The same slot with every token that is steered."""
        return TextSlot(self.clip, self.family, whole=True)

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """For each text its states (len(layers), L, d) in float32 on the CPU."""
        if self.whole:
            for states in text_states(self.clip, self.family, texts):
                yield states[None].expand(len(layers), -1, -1)
            return
        own = OwnTokens(self.clip, self.name)
        for text in texts:
            tokens = self.clip.tokenize(text)
            entry, extra = self.clip.encode_from_tokens_scheduled(tokens)[0]
            (steered,) = text_places(self.family, entry, extra)
            # Templates are cut off in front, and tokens of other encoders stand there: ends lie upon each other.
            shift = entry.shape[1] - sum(len(chunk) for chunk in tokens[self.name])
            first = [0]
            for chunk in tokens[self.name]:
                first.append(first[-1] + len(chunk))
            wanted = [first[place.chunk] + place.at + shift for place in own.places(tokens)]
            kept = sorted(set(wanted) & set(steered.tolist()))
            yield entry[0, kept].float().cpu()[None].expand(len(layers), -1, -1)


class OwnTokens:
    """Which tokens of a tokenized prompt are the prompt's own."""

    def __init__(self, clip: Any, part: str) -> None:
        self.part = part
        empty = clip.tokenize("")[part]
        self.pads = _pads(clip, part)
        self.around = self._stripped([token[0] for token in empty[0]])[0]

    def places(self, tokens: Mapping[str, Sequence[Sequence[Sequence[Any]]]]) -> list[Place]:
        """Of what the host's tokenizer made of a prompt, in order."""
        return [
            Place(number, at)
            for number, chunk in enumerate(tokens[self.part])
            for at in self._within([token[0] for token in chunk])
        ]

    def _within(self, ids: list[Any]) -> range:
        own, start = self._stripped(ids)
        most = min(len(own), len(self.around))
        front = next((i for i in range(most) if not _same(own[i], self.around[i])), most)
        most -= front
        back = next((i for i in range(most) if not _same(own[-1 - i], self.around[-1 - i])), most)
        return range(start + front, start + len(own) - back)

    def _stripped(self, ids: list[Any]) -> tuple[list[Any], int]:
        """Without padding, and how much of it was in front."""
        front = next((i for i, token in enumerate(ids) if not self._is_pad(token)), len(ids))
        back = next((i for i, token in enumerate(reversed(ids)) if not self._is_pad(token)), 0)
        return ids[front : len(ids) - back], front

    def _is_pad(self, token: Any) -> bool:
        return isinstance(token, int) and token in self.pads


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a == b


def _pads(clip: Any, part: str) -> set[int]:
    """The padding of a part's tokenizer."""
    tokenizers: list[Any] = [getattr(clip.tokenizer, name, None) for name in (part, f"clip_{part}")]
    return {int(one.pad_token) for one in tokenizers if getattr(one, "pad_token", None) is not None}


def _encoders(clip: Any) -> dict[str, Any]:
    """The text encoders of a CLIP by the names that its tokenizer gives them."""
    model = clip.cond_stage_model
    found: dict[str, Any] = {}
    for part in clip.tokenize(""):
        for name in (part, f"clip_{part}", getattr(model, "clip", "")):
            encoder = getattr(model, name, None) if name else None
            if encoder is not None and hasattr(encoder, "transformer"):
                found.setdefault(part, encoder)
    return found


def _width(encoder: Any) -> int:
    """d of an encoder's states."""
    return int(encoder.transformer.get_input_embeddings().weight.shape[-1])


def _blocks(encoder: Any, part: str) -> list[Any]:
    """The transformer's blocks, in order."""
    for module in encoder.transformer.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == encoder.num_layers:
            return list(module)
    raise SteeringError(
        f"CLIP: {part}",
        expected=f"a list of {encoder.num_layers} blocks",
        found=type(encoder.transformer).__name__,
        remedy="This text encoder cannot be looked into; use the generator's text itself, or a language model.",
    )


def _keeper(seen: dict[int, Tensor], number: int, places: Sequence[Place]) -> Any:
    """A forward hook that keeps a copy of the states at these places, or before the first block a pre-hook."""

    def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *result: Any) -> None:
        x = result[0] if result else args[0] if args else next(iter(kwargs.values()))
        x = x[0] if isinstance(x, tuple) else x
        rows = [place.chunk for place in places]
        seen[number] = x[rows, [place.at for place in places]].detach().to("cpu", torch.float32, copy=True)

    return keep
