"""Language models as sources: our Llama against transformers' with the same weights, tokens, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering.errors import SteeringError
from steerdit.training.directions import language_model, sources
from steerdit.training.directions.gguf_llama import GgufLlama, smollm2
from steerdit.training.directions.language_model import SMOLLM2, LanguageModel, open_language_model
from steerdit.training.directions.sources import token_means

WORDS = ["<pad>", "<s>", "a", "Ġa", "b", "Ġ", "c", "1", "2", "ab", "Ġab"]
MERGES = ["a b", "Ġ a", "Ġ ab"]
SENTENCE = "Hello, 123 wörld's  it’s  \n a   test—of №42 emoji 😀!!"


def config(**changes: Any) -> transformers.LlamaConfig:
    sizes: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 1000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 0,
    }
    return transformers.LlamaConfig(**(sizes | changes))


def tiny() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config()).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (1.0 if p.ndim == 1 else 0.0))
    return model


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF turns neighbouring entries of a head, transformers the halves."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The other way round."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


PARTS = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def write_gguf(
    path: Path, model: transformers.LlamaForCausalLM, architecture: str = "llama", pre: str = "smollm"
) -> Path:
    c, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_embedding_length(c.hidden_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_freq_base(1000.0)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(WORDS)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for block in range(c.num_hidden_layers):
        for ours, theirs in PARTS.items():
            weight = state[f"model.layers.{block}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                weight = neighbours(
                    weight, c.num_attention_heads if ours == "attn_q" else c.num_key_value_heads
                )
            writer.add_tensor(f"blk.{block}.{ours}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def save_folder(folder: Path, model: transformers.LlamaForCausalLM, front: str | None = "<s>") -> Path:
    model.save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({w: i for i, w in enumerate(WORDS)}, [tuple(m.split()) for m in MERGES])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = {} if front is None else {"bos_token": front}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    return folder


@torch.no_grad()
def reference(model: Any, tokens: Iterable[int]) -> list[torch.Tensor]:
    """The hidden states (L, d) of one sequence, layer by layer, by transformers."""
    return [h[0] for h in model(torch.tensor([list(tokens)]), output_hidden_states=True).hidden_states]


@pytest.fixture(scope="module")
def model() -> transformers.LlamaForCausalLM:
    return tiny()


def test_a_gguf_and_a_folder_of_one_model_give_transformers_states(
    tmp_path: Path, model: transformers.LlamaForCausalLM
) -> None:
    ours = open_language_model(write_gguf(tmp_path / "tiny.gguf", model))
    theirs = open_language_model(save_folder(tmp_path / "tiny", model))
    assert isinstance(ours, GgufLlama)
    assert isinstance(theirs, LanguageModel)
    assert ours.layers == theirs.layers == (0, 1, 2, 3)
    assert ours.width == theirs.width == 24
    texts = ["ab c", "a", "", "ab ab 12", "cba1 ab a"]
    for layers in ((0, 1, 2, 3), (2,), (3, 0)):
        for text, a, b in zip(texts, ours.states(texts, layers), theirs.states(texts, layers)):
            tokens = ours.tokenizer.encode(text).ids
            assert a.shape == b.shape == (len(layers), len(tokens), 24)
            expected = reference(model, [1, *tokens])
            for row, layer in enumerate(layers):
                torch.testing.assert_close(a[row], expected[layer][1:], atol=2e-5, rtol=1e-4)
                torch.testing.assert_close(b[row], expected[layer][1:], atol=2e-5, rtol=1e-4)


def test_a_texts_states_do_not_depend_on_its_company(
    tmp_path: Path, model: transformers.LlamaForCausalLM
) -> None:
    source = GgufLlama(write_gguf(tmp_path / "tiny.gguf", model))
    alone = next(source.states(["ab c"], (3,)))
    crowd = list(source.states(["ab ab ab ab 12", "ab c", "c"], (3,)))[1]
    torch.testing.assert_close(alone, crowd, atol=1e-5, rtol=1e-5)


def test_without_a_token_for_the_front_the_first_word_is_left_out(
    tmp_path: Path, model: transformers.LlamaForCausalLM
) -> None:
    source = LanguageModel(save_folder(tmp_path / "tiny", model, front=None))
    assert source.first is None
    (two,) = source.states(["a c"], (2,))
    expected = reference(model, source.tokenizer("a c")["input_ids"])[2]
    torch.testing.assert_close(two[0], expected[1:], atol=2e-5, rtol=1e-4)
    with pytest.raises(
        SteeringError, match="'a': expected a text with at least one token of its own, found none"
    ):
        token_means(source, ["a"], (2,))


def test_a_text_without_any_token_has_no_states(tmp_path: Path, model: transformers.LlamaForCausalLM) -> None:
    source = LanguageModel(save_folder(tmp_path / "tiny", model, front=None))
    shapes = [states.shape for states in source.states(["", "a c", "", "ab"], (2, 0))]
    assert shapes == [(2, 0, 24), (2, 2, 24), (2, 0, 24), (2, 0, 24)]
    assert [states.shape for states in source.states(["", ""], (2,))] == [(1, 0, 24)] * 2


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 30), st.integers(1, 50))
def test_sequences_are_read_in_batches_and_come_in_order(
    lengths: list[int], tokens: int, window: int
) -> None:
    read: list[int] = []

    def states(batch: list[int]) -> Iterator[torch.Tensor]:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= tokens
        read.extend(batch)
        return (torch.tensor(i) for i in batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "TEXTS_AT_ONCE", window)
        found = sources.in_order(lengths, tokens, states)
        for number in range(len(lengths)):
            assert int(next(found)) == number
            assert len(read) <= window * (number // window + 1)
        assert next(found, None) is None
    assert sorted(read) == list(range(len(lengths)))


def test_reading_can_be_stopped_between_batches(
    tmp_path: Path, model: transformers.LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    source = LanguageModel(save_folder(tmp_path / "tiny", model))
    calls: list[int] = []
    whole = source._read
    monkeypatch.setattr(language_model, "TOKENS_AT_ONCE", 4)
    monkeypatch.setattr(source, "_read", lambda *said: calls.append(1) or whole(*said))
    with pytest.raises(Stopped):
        token_means(source, ["ab c"] * 8, (2,), stop)
    assert len(calls) == 1


def test_fingerprints_tell_models_apart_and_know_copies(
    tmp_path: Path, model: transformers.LlamaForCausalLM
) -> None:
    first = LanguageModel(save_folder(tmp_path / "one", model))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert LanguageModel(tmp_path / "two").fingerprint() == first.fingerprint()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert LanguageModel(save_folder(tmp_path / "three", model)).fingerprint() != first.fingerprint()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] -= 1


def test_what_is_no_language_model_is_refused(tmp_path: Path, model: transformers.LlamaForCausalLM) -> None:
    with pytest.raises(SteeringError, match=f"or {SMOLLM2}, found nothing of that name"):
        open_language_model(tmp_path / "none")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(SteeringError, match="a whole GGUF file"):
        open_language_model(tmp_path / "broken.gguf")
    with pytest.raises(SteeringError, match="expected the architecture llama, found 'falcon'"):
        GgufLlama(write_gguf(tmp_path / "falcon.gguf", model, architecture="falcon"))
    with pytest.raises(SteeringError, match="cut as smollm or gpt-2, found gpt2 cut as qwen2"):
        GgufLlama(write_gguf(tmp_path / "qwen.gguf", model, pre="qwen2"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SteeringError, match="that transformers can read"):
        open_language_model(tmp_path / "empty")
    folder = save_folder(tmp_path / "pickled", model)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(SteeringError, match=r"with \.safetensors weights"):
        open_language_model(folder)
    with pytest.raises(SteeringError, match="layers among 0, 1, 2, 3, found 4"):
        list(open_language_model(save_folder(tmp_path / "tiny", model)).states(["a"], (4,)))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(language_model, "import_module", missing)
    with pytest.raises(SteeringError, match="pip install transformers"):
        LanguageModel(tmp_path / "folder")


def test_smollm2_is_transformers_llama_with_the_same_weights() -> None:
    ours = GgufLlama(smollm2())
    shape, weights = ours.shape, ours.weights
    theirs = transformers.LlamaForCausalLM(
        config(
            vocab_size=weights["token_embd.weight"].shape[0],
            hidden_size=shape.width,
            intermediate_size=weights["blk.0.ffn_up.weight"].shape[0],
            num_hidden_layers=shape.blocks,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads_kv,
            rms_norm_eps=shape.epsilon,
            rope_theta=shape.base,
        )
    ).eval()
    state = {
        "model.embed_tokens.weight": weights["token_embd.weight"],
        "model.norm.weight": weights["output_norm.weight"],
    }
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    for block in range(shape.blocks):
        for part, name in PARTS.items():
            weight = weights[f"blk.{block}.{part}.weight"]
            if part in ("attn_q", "attn_k"):
                weight = halves(weight, shape.heads if part == "attn_q" else shape.heads_kv)
            state[f"model.layers.{block}.{name}.weight"] = weight
    theirs.load_state_dict(state)
    tokens = ours.tokenizer.encode("The capital of France is").ids
    expected = reference(theirs, [ours.first, *tokens])
    (found,) = ours.states(["The capital of France is"], ours.layers)
    for layer, (a, b) in enumerate(zip(found, expected)):
        torch.testing.assert_close(a, b[1:], atol=1e-3, rtol=1e-3, msg=f"layer {layer}")
    best = int((found[-1, -1] @ weights["token_embd.weight"].T).argmax())
    assert ours.tokenizer.decode([best]) == " Paris"


def test_smollm2s_tokens_are_those_of_transformers() -> None:
    path = smollm2()
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = GgufLlama.tokenizer_of(path)
    # (Of digits after blank lines transformers' reading of the file differs from llama.cpp's, which ours follows.)
    for text in (SENTENCE, "a bloody cat on a blue background, soft drawing", "", " "):
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(
            text, add_special_tokens=False
        )
