"""What a text encoder has to offer: the hidden states of its real tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...delivery.transport import Digest
from ...steering.errors import SteeringError

Layer = int | None
"""0 the embedding, l the residual stream after block l; None the output, as a generator is given it."""
Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all); it may raise to stop the work."""
TEXTS_AT_ONCE = 512
"""Texts of which batches of like lengths are made."""


class HiddenStates(Protocol):
    """A language model or text encoder that can be looked into.

    Padding, beginnings of sequence and words of a chat template are no real tokens. In a causal model the very first
    token draws attention to itself whatever it is, with activations hundreds of times as large; so one that is not
    real is put in front, and left out of what is returned.
    """

    @property
    def name(self) -> str:
        """As people call it; it is stored with what is made from its states."""
        ...

    @property
    def width(self) -> int: ...

    def fingerprint(self) -> str:
        """SHA-256 of the weights, in hexadecimal: by it a direction's own encoder is known again."""
        ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that it can give; each has the same width."""
        ...

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """For each text, in order: its real tokens' states (len(layers), L, d) in float32 on the CPU; L may be 0."""
        ...


def token_means(
    source: HiddenStates, texts: Sequence[str], layers: Sequence[Layer], progress: Progress | None = None
) -> Tensor:
    """The mean over each text's real tokens → (len(layers), n, d) in float32.

    Raises:
        SteeringError: a layer that the encoder does not have, a text without a real token, or a state that is not
        finite.
    """
    require_layers(source, layers)
    means = torch.empty(len(layers), len(texts), source.width)
    for i, states in enumerate(source.states(texts, layers)):
        if not states.shape[1]:
            raise SteeringError(
                f"{source.name}: {texts[i]!r}",
                expected="a text with at least one token of its own",
                found="none: it is empty, or holds only what is left out",
                remedy="Take this text out, or write more than one word.",
            )
        means[:, i] = states.mean(1)
        if progress is not None:
            progress(i + 1, len(texts))
    if not torch.isfinite(means).all():
        bad = int((~torch.isfinite(means)).any(dim=2).any(dim=0).nonzero()[0])
        raise SteeringError(
            f"{source.name}: {texts[bad]!r}",
            expected="finite states",
            found="NaN or infinity",
            remedy="Load the encoder in float32 or bfloat16; float16 overflows in some.",
        )
    return means


def require_layers(source: HiddenStates, layers: Sequence[Layer]) -> None:
    """Raises SteeringError unless the encoder has all these layers."""
    missing = [layer for layer in layers if layer not in source.layers]
    if missing or not layers:
        raise SteeringError(
            source.name,
            expected=f"layers among {', '.join(map(layer_name, source.layers))}",
            found=", ".join(map(layer_name, missing)) or "no layer",
            remedy="Choose layers that this encoder has.",
        )


def layer_name(layer: Layer) -> str:
    """As messages call it."""
    return "the output" if layer is None else str(layer)


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Groups numbers of sequences of like lengths so that a padded batch holds at most about ``tokens`` tokens."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def in_order(
    lengths: Sequence[int], tokens: int, read: Callable[[list[int]], Iterable[Tensor]]
) -> Iterator[Tensor]:
    """What ``read`` makes of sequences, given their numbers by `batches`, in the order of the sequences.

    A batch is read when one of its sequences is asked for, so that the work can be stopped between batches; and of all
    sequences only TEXTS_AT_ONCE are held.
    """
    for start in range(0, len(lengths), TEXTS_AT_ONCE):
        found: dict[int, Tensor] = {}
        window = lengths[start : start + TEXTS_AT_ONCE]
        groups = [[start + i for i in group] for group in batches(window, tokens)]
        of = {i: group for group in groups for i in group}
        for i in range(start, start + len(window)):
            if i not in found:
                found.update(zip(of[i], read(of[i]), strict=True))
            yield found.pop(i)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; read again only when the file has changed."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@lru_cache
def _sha256(path: Path, changed: int, size: int) -> str:
    return Digest("sha256", "").of(path).value
