"""Language models that are damaged are refused: none is filled up at random, none fails in the midst of the work."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerdit.steering.errors import SteeringError
from steerdit.training.directions.language_model import LanguageModel, open_language_model
from steerdit.training.directions.sources import token_means

from .test_language_models import save_folder, tiny, write_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("whole") / "model", tiny())


def rewritten(whole: Path, folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    shutil.copytree(whole, folder)
    weights = change(load_file(whole / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def configured(whole: Path, folder: Path, **changes: int) -> Path:
    shutil.copytree(whole, folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_weights_that_no_file_has_are_not_drawn_at_random(tmp_path: Path, whole: Path) -> None:
    lost = "model.layers.1.mlp.up_proj.weight"
    folder = rewritten(whole, tmp_path / "one", lambda w: {k: v for k, v in w.items() if k != lost})
    with pytest.raises(SteeringError, match=f"1 missing, such as {lost}"):
        open_language_model(folder)
    with pytest.raises(SteeringError, match="files with all weights that"):
        open_language_model(rewritten(whole, tmp_path / "all", lambda _: {"x": torch.ones(2)}))
    with pytest.raises(SteeringError, match=r"9 missing, such as model\.layers\.3"):
        open_language_model(configured(whole, tmp_path / "more", num_hidden_layers=4))


def test_the_last_layer_over_words_may_be_missing(tmp_path: Path, whole: Path) -> None:
    folder = configured(whole, tmp_path / "untied", tie_word_embeddings=False)
    texts = ["ab c", "a"]
    for found, expected in zip(
        LanguageModel(folder).states(texts, (2,)), LanguageModel(whole).states(texts, (2,))
    ):
        assert torch.equal(found, expected)


def test_a_tokenizer_of_another_model_and_a_device_that_is_not_there(tmp_path: Path, whole: Path) -> None:
    folder = rewritten(
        whole, tmp_path / "small", lambda w: {k: v[:4].clone() if "embed" in k else v for k, v in w.items()}
    )
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 4}))
    with pytest.raises(SteeringError, match="tokens of the model's 4, found a tokenizer of 11"):
        token_means(LanguageModel(folder), ["c"], (1,))
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(SteeringError, match="one that torch can use here"):
            LanguageModel(whole, device)


def test_a_gguf_is_read_whole_or_refused(tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "whole.gguf", tiny()).read_bytes()
    draw, path = random.Random(0), tmp_path / "damaged.gguf"
    for _ in range(120):
        damaged = bytearray(content if draw.random() < 0.8 else content[: draw.randrange(1, len(content))])
        for _ in range(draw.choice((1, 4))):
            damaged[draw.randrange(min(1500, len(damaged)))] = draw.choice((0, 2, 128, 255))
        path.write_bytes(damaged)
        try:
            source = open_language_model(path)
            source.fingerprint()
            token_means(source, ["ab c", "a"], (1, source.layers[-1]))
        except SteeringError:
            continue
