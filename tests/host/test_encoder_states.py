"""Hidden states of the host's text encoders: which tokens are the prompt's own, and that each layer is that layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerdit.benchmarks.emoji_scenes import in_host
from steerdit.benchmarks.emoji_scenes.text import TextEncoder
from steerdit.host.conditioning import SLOTS, require_kind, text_states
from steerdit.host.encoder_states import HiddenLayers, OwnTokens, TextSlot
from steerdit.steering.errors import SteeringError
from steerdit.training.directions.sources import HiddenStates, token_means

from .encoders import KINDS, tiny_clip

PROMPT = "a bloody cat on a blue background"
PARTS = {
    "flux": ("l", "t5xxl"), "sd3": ("l", "g", "t5xxl"), "z_image": ("qwen3_4b",), "qwen_image": ("qwen25_7b",),
    "hunyuan_video": ("l", "llama"), "ltx": ("t5xxl",), "wan": ("umt5xxl",), "lumina2": ("gemma2_2b",),
    "flux2": ("qwen3_4b",),
}  # fmt: skip


@pytest.fixture(scope="module")
def clips() -> dict[str, Any]:
    with torch.inference_mode():
        return {family: tiny_clip(family) for family in KINDS}


def words(clip: Any, part: str, text: str) -> list[int]:
    """The tokens of a text alone, by the tokenizer that the host wraps."""
    tokenizer = getattr(clip.tokenizer, part, None) or getattr(clip.tokenizer, f"clip_{part}")
    pieces = getattr(tokenizer.tokenizer, "tokenizer", None)  # SentencePiece's own has no such option
    if pieces is not None:
        return pieces.encode(text, add_bos=False, add_eos=False)
    return tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_every_family_with_a_slot_is_tried() -> None:
    assert set(KINDS) | {"flux2"} == set(PARTS) == set(SLOTS)


@pytest.mark.parametrize(("family", "part"), [(family, part) for family in KINDS for part in PARTS[family]])
@pytest.mark.parametrize("prompt", [PROMPT, "cat", "", "a cat asleep, " * 40])
def test_the_prompts_own_tokens_are_found(clips: dict[str, Any], family: str, part: str, prompt: str) -> None:
    clip = clips[family]
    tokens = clip.tokenize(prompt)
    found = [tokens[part][place.chunk][place.at][0] for place in OwnTokens(clip, part).places(tokens)]
    assert found == words(clip, part, prompt)


@pytest.mark.parametrize(
    ("family", "part"),
    [("flux", "t5xxl"), ("sd3", "g"), ("z_image", "qwen3_4b"), ("wan", "umt5xxl"), ("lumina2", "gemma2_2b")],
)
def test_hidden_layers_are_the_hosts_own(clips: dict[str, Any], family: str, part: str) -> None:
    clip = clips[family]
    source = HiddenLayers(clip, part)
    encoder = getattr(clip.cond_stage_model, part, None) or getattr(clip.cond_stage_model, f"clip_{part}")
    assert source.layers == tuple(range(encoder.num_layers + 1))
    (states,) = source.states([PROMPT], source.layers)
    tokens = clip.tokenize(PROMPT)
    at = [place.at for place in OwnTokens(clip, part).places(tokens)]
    assert states.shape == (len(source.layers), len(at), source.width)
    ids = [[token[0] for token in tokens[part][0]]]
    for layer in source.layers[1:]:
        encoder.reset_clip_options()
        encoder.layer_norm_hidden_state = False
        encoder.set_clip_options({"layer": layer - 1})
        expected = encoder.encode(ids)[0][0, at]
        encoder.reset_clip_options()
        torch.testing.assert_close(states[layer], expected, atol=1e-5, rtol=1e-5)


def test_hidden_layers_leave_the_encoder_as_it_was(clips: dict[str, Any]) -> None:
    clip = clips["flux"]
    before = clip.encode_from_tokens(clip.tokenize(PROMPT))
    source = HiddenLayers(clip)
    assert source.part == "t5xxl"
    (layered,) = source.states([PROMPT], (2, 0))
    (only,) = source.states([PROMPT], (2,))
    torch.testing.assert_close(layered[0], only[0])
    assert torch.equal(clip.encode_from_tokens(clip.tokenize(PROMPT)), before)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in source.blocks)


@pytest.mark.parametrize("family", list(KINDS))
def test_the_text_slot_holds_the_prompts_own_tokens_of_the_conditioning(
    clips: dict[str, Any], family: str
) -> None:
    clip = clips[family]
    slot, whole = TextSlot(clip, family), TextSlot(clip, family, whole=True)
    (own,), (steered,) = slot.states([PROMPT], (None,)), whole.states([PROMPT], (None,))
    assert own.shape == (
        1,
        len(words(clip, slot.name, PROMPT)),
        slot.width,
    )
    (expected,) = text_states(clip, family, [PROMPT])
    assert torch.equal(steered[0], expected)
    # Each of its own tokens is one of those that are steered, in the same order.
    rows = [int((expected - token).abs().sum(1).argmin()) for token in own[0]]
    assert rows == list(range(rows[0], rows[0] + len(rows)))
    assert torch.equal(expected[rows], own[0])
    # A change of the third word changes no token before it in a causal encoder, and its own in any.
    (other,) = slot.states([PROMPT.replace("cat", "dog")], (None,))
    assert not torch.equal(other[0, 2:], own[0, 2:])
    assert isinstance(slot, TextSlot)
    as_protocol: HiddenStates = slot
    assert token_means(as_protocol, [PROMPT, "cat"], (None,)).shape == (1, 2, slot.width)
    with pytest.raises(SteeringError, match="at least one token of its own"):
        token_means(slot, [""], (None,))


def test_the_worlds_encoder_gives_minilms_states() -> None:
    clip = in_host.text_encoder()
    states, lengths = TextEncoder()([PROMPT])
    (own,) = TextSlot(clip, "flux").states([PROMPT], (None,))
    torch.testing.assert_close(own[0], states[0, 1 : int(lengths[0]) - 1], atol=5e-3, rtol=1e-2)
    layers = HiddenLayers(clip)
    (last,) = layers.states([PROMPT], (layers.layers[-1],))
    torch.testing.assert_close(last[0], own[0], atol=1e-4, rtol=1e-4)


def test_what_is_not_there_is_refused(clips: dict[str, Any]) -> None:
    with pytest.raises(SteeringError, match="one of its text encoders: l, t5xxl, found 'llama'"):
        HiddenLayers(clips["flux"], "llama")
    with pytest.raises(SteeringError, match="family"):
        TextSlot(clips["z_image"], "flux")
    with pytest.raises(SteeringError, match="expected one of"):
        TextSlot(clips["flux"], "hidream")


@pytest.mark.parametrize(
    ("family", "other", "found"),
    [
        ("wan", "ltx", "umt5xxl"),
        ("ltx", "wan", "t5xxl"),
        ("hunyuan_video", "flux", "llama"),
        ("z_image", "qwen_image", "qwen3_4b"),
        ("qwen_image", "lumina2", "qwen25_7b"),
    ],
)
def test_another_familys_encoder_is_refused_though_its_conditioning_looks_alike(
    family: str, other: str, found: str, clips: dict[str, Any]
) -> None:
    with pytest.raises(SteeringError, match=f"CLIP: expected .*, which {other} has .*, found {found}"):
        TextSlot(clips[family], other)
    assert set(KINDS) <= set(SLOTS)


def test_an_encoder_of_no_known_name_may_be_anybodys() -> None:
    require_kind(["minilm"], "flux")
