"""Steer Conditioning changes a family's text tokens, as the equations say, and nothing else."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from steerdit.host.conditioning import SLOTS, encoder_fingerprint, text_places, text_states
from steerdit.nodes.steer_direction import SteerConditioningNode
from steerdit.steering import SteeringError
from steerdit.steering.directions import Weighting
from steerdit.steering.formats.directions import Encoder

from ..unit.directions import by_loops
from .direction_bundles import INPUTS, NEVER, direction_bundle, directions_at, steered_conditioning
from .encoders import tiny_clip
from .slots import FAMILIES, VIDEO, WIDTH, prompt, real, sample, tiny_model

METHODS = {"project_out": "project", "add": "add", "clamp": "clamp"}


def test_every_family_with_a_slot_is_tried() -> None:
    assert set(FAMILIES) == set(SLOTS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("operator", METHODS)
@pytest.mark.parametrize("weights", list(Weighting))
def test_the_text_tokens_are_what_the_equations_say(
    family: str, operator: str, weights: Weighting, tmp_path: Path
) -> None:
    bundle = direction_bundle(tmp_path, family, {"text": WIDTH})
    before = prompt(family, 1, batch=2)
    ((after, _),) = steered_conditioning(before, bundle, operator=operator, weights=weights.value)
    tokens = before[0][0][:, real(family)].double()
    expected = by_loops(directions_at(bundle), tokens, METHODS[operator], 1.5, weights, True)
    assert float((after[:, real(family)] - expected).abs().max() / expected.abs().max()) < 1e-5
    others = torch.ones(after.shape[1], dtype=torch.bool)
    others[real(family)] = False
    assert torch.equal(after[:, others], before[0][0][:, others])


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_else_survives_and_nothing_is_changed_in_place(family: str, tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path, family, {"text": WIDTH})
    before = [*prompt(family, 1), *prompt(family, 2)]
    before[0][1]["reference_latents"] = [torch.randn(1, 16, 4, 4)]
    kept = copy.deepcopy(before)
    after = steered_conditioning(before, bundle)
    for (tokens, extra), (was, had), (now, has) in zip(before, kept, after, strict=True):
        assert torch.equal(tokens, was)
        assert not torch.equal(now, was)
        assert list(extra) == list(had) == list(has)
        assert all(has[name] is extra[name] for name in extra)
        assert has is not extra
        for name, value in had.items():
            assert torch.equal(extra[name], value) if isinstance(value, Tensor) else True


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("nothing", ["strength", "gates", "categories"])
def test_where_nothing_acts_the_very_same_conditioning_comes_back(
    family: str, nothing: str, tmp_path: Path
) -> None:
    changes = {"strength": {"strength": 0.0}, "gates": {}, "categories": {"categories": "none"}}[nothing]
    rows = {"rows": NEVER} if nothing == "gates" else {}
    bundle = direction_bundle(tmp_path, family, {"text": WIDTH}, **rows)
    before = prompt(family, 1)
    for operator in METHODS:
        assert steered_conditioning(before, bundle, operator=operator, **changes) is before


def calls_of(model: Any, family: str, positive: Any, negative: Any) -> tuple[Tensor, list[dict[str, Any]]]:
    """The sampled latent, and what the host handed to the model at each call."""
    calls: list[dict[str, Any]] = []

    def watch(
        executor: Any, x: Any, t: Any, c_concat: Any, c_crossattn: Any, *rest: Any, **kwargs: Any
    ) -> Any:
        positive_alone = rest[1]["cond_or_uncond"] == [0]
        calls.append({**kwargs, "text": c_crossattn, "positive": positive_alone})
        return executor(x, t, c_concat, c_crossattn, *rest, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    return sample(watched, family, positive, negative), calls


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_given_other_text_tokens_and_all_else_alike(family: str, tmp_path: Path) -> None:
    """Through the host: a negative prompt of another length, so that each prompt has calls of its own."""
    model, bundle = tiny_model(family), direction_bundle(tmp_path, family, {"text": WIDTH})
    plain, negative = prompt(family, 1), prompt(family, 2, more=1)
    latent, calls = calls_of(model, family, plain, negative)
    steered = steered_conditioning(plain, bundle, operator="add", weights="uniform")
    other, steered_calls = calls_of(model, family, steered, negative)
    assert other.isfinite().all()
    assert not torch.equal(latent, other)
    assert len(calls) == len(steered_calls)
    for call, steered_call in zip(calls[:2], steered_calls[:2], strict=True):
        text, steered_text = call.pop("text"), steered_call.pop("text")
        changed = (text != steered_text).any(-1)[0]
        if call["positive"]:
            tokens = steered[0][0]
            padded = text.shape[1] - tokens.shape[1]  # the host pads FLUX.2's on the left
            assert (padded > 0) == (family == "flux2")
            assert torch.equal(steered_text[:, padded:], tokens)
            places = range(*real(family).indices(tokens.shape[1]))
            assert changed.nonzero()[:, 0].tolist() == [padded + place for place in places]
        else:
            assert not changed.any()
        assert call.keys() == steered_call.keys()
        for name, value in call.items():
            same = torch.equal(value, steered_call[name]) if isinstance(value, Tensor) else True
            assert same or name == "transformer_options", name


@pytest.mark.parametrize("family", VIDEO)
def test_text_to_video(family: str, tmp_path: Path) -> None:
    model, bundle = tiny_model(family), direction_bundle(tmp_path, family, {"text": WIDTH})
    positive, negative = prompt(family, 1), prompt(family, 2, more=1)
    plain = sample(model, family, positive, negative)
    watched = steered_conditioning(positive, bundle, strength=0.0)
    assert torch.equal(sample(model, family, watched, negative), plain)
    videos = [
        sample(
            model, family, steered_conditioning(positive, bundle, operator=operator, strength=2.0), negative
        )
        for operator in METHODS
    ]
    assert plain.ndim == 5
    assert all(video.isfinite().all() and not torch.equal(video, plain) for video in videos)
    assert torch.equal(sample(model, family, positive, negative), plain)


def test_each_prompt_of_a_batch_is_gated_for_itself(tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path, "wan", {"text": WIDTH})
    directions = directions_at(bundle)
    ((tokens, extra),) = prompt("wan", 1, batch=2)
    benign = directions.mean - (1 + torch.rand(5, 1)) * directions.unsafe.sum(0)
    tokens[0, :5] = benign
    ((after, _),) = steered_conditioning([[tokens, extra]], bundle)
    assert torch.equal(after[0], tokens[0])
    assert not torch.equal(after[1], tokens[1])


def test_scores_are_said_and_open_gates_are_told(tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path, "wan", {"text": WIDTH})
    before = prompt("wan", 1)
    _, scores, fired = SteerConditioningNode.execute(conditioning=before, bundle=bundle, **INPUTS).args
    lines = scores.splitlines()
    assert fired
    assert re.fullmatch(r"prompt 1: weapons \d\.\d{3} \(open, threshold 0\.020\)", lines[0])
    assert re.match(r"prompt 1: bloody \d\.\d{3} \(", lines[1])
    never = direction_bundle(tmp_path, "wan", {"text": WIDTH}, NEVER)
    _, scores, fired = SteerConditioningNode.execute(conditioning=before, bundle=never, **INPUTS).args
    assert not fired
    assert "closed, threshold 1.000" in scores


def test_what_a_gate_is_calibrated_on_is_what_it_looks_at(tmp_path: Path) -> None:
    class Clip:
        """As the host's CLIP answers."""

        def tokenize(self, text: str) -> int:
            return int(text)

        def encode_from_tokens_scheduled(self, tokens: int) -> Any:
            return prompt("qwen_image", tokens)

    bundle = direction_bundle(tmp_path, "qwen_image", {"text": WIDTH})
    for seed, states in zip((3, 4), text_states(Clip(), "qwen_image", ["3", "4"]), strict=True):
        ((tokens, _),) = conditioning = prompt("qwen_image", seed)
        assert torch.equal(states, tokens[0, real("qwen_image")])
        _, scores, _ = SteerConditioningNode.execute(
            conditioning=conditioning, bundle=bundle, **{**INPUTS, "strength": 0.0}
        ).args
        best = directions_at(bundle).scores(states).amax(0)
        assert scores.splitlines()[0].startswith(f"prompt 1: weapons {float(best[0]):.3f}")


def refusal(conditioning: Any, bundle: Any, **changes: Any) -> str:
    before = copy.deepcopy(conditioning)
    with pytest.raises(SteeringError) as caught:
        steered_conditioning(conditioning, bundle, **changes)
    assert all(torch.equal(now[0], was[0]) for now, was in zip(conditioning, before, strict=True))
    return str(caught.value)


def test_another_width(tmp_path: Path) -> None:
    for family in FAMILIES:
        message = refusal(prompt(family, 1), direction_bundle(tmp_path, family, {"text": WIDTH + 1}))
        assert message.startswith(
            f"CONDITIONING: expected tokens of width {WIDTH + 1}, as the directions have"
        )
        assert f"found width {WIDTH}" in message


@pytest.mark.parametrize(
    ("bundle", "conditioning", "message"),
    [
        ("flux", "wan", "of the family flux, with a pooled state, found without"),
        ("wan", "flux", "of the family wan, without a pooled state, found with"),
        ("sd3", "flux", "expected more than 77 tokens"),
        ("qwen_image", "hunyuan_video", "of the family qwen_image, without a pooled state"),
    ],
)
def test_another_family(bundle: str, conditioning: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(prompt(conditioning, 1), direction_bundle(tmp_path, bundle, {"text": WIDTH}))


def test_released_models_of_one_width_are_told_apart_by_their_pooled_state(tmp_path: Path) -> None:
    def encoded(tokens: int, pooled: int) -> Any:
        return [[torch.randn(1, tokens, 4096), {"pooled_output": torch.randn(1, pooled)}]]

    flux = direction_bundle(tmp_path, "flux", {"text": 4096})
    sd3 = direction_bundle(tmp_path, "sd3", {"text": 4096})
    assert "a pooled state of width 768, found width 2048" in refusal(encoded(154, 2048), flux)
    assert "a pooled state of width 2048, found width 768" in refusal(encoded(256, 768), sd3)
    steered_conditioning(encoded(4, 768), flux)


class Encoders:
    """A CLIP of the host, as far as a fingerprint looks at it."""

    def __init__(self, seed: int) -> None:
        self.cond_stage_model = torch.nn.Module()
        for name, values in (("clip_l", 1.0), ("t5xxl", float(seed))):
            layer = torch.nn.Linear(3, 3)
            torch.nn.init.constant_(layer.weight, values)
            torch.nn.init.zeros_(layer.bias)
            setattr(self.cond_stage_model, name, layer)
        self.patcher = ModelPatcher(self.cond_stage_model, torch.device("cpu"), torch.device("cpu"))


def test_another_encoder_than_the_bundle_names(tmp_path: Path) -> None:
    encoder = Encoder("T5 XXL", encoder_fingerprint(Encoders(1), "flux"))
    bundle = direction_bundle(tmp_path, "flux", {"text": WIDTH}, encoder=encoder)
    before = prompt("flux", 1)
    ((expected, _),) = steered_conditioning(before, bundle)
    ((found, _),) = steered_conditioning(before, bundle, clip=Encoders(1))
    assert torch.equal(found, expected)
    message = refusal(before, bundle, clip=Encoders(2))
    assert f"expected T5 XXL with the fingerprint {encoder.fingerprint}" in message
    patched = Encoders(1)
    patched.patcher.add_patches({"clip_l.weight": (torch.ones(3, 3),)})
    steered_conditioning(before, bundle, clip=patched)  # CLIP-L is no part of FLUX's tokens
    patched.patcher.add_patches({"t5xxl.weight": (torch.ones(3, 3),)})
    assert "leave clip unconnected" in refusal(before, bundle, clip=patched)


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_sd3s_tokens_of_clip_are_told_by_what_the_host_pads_them_with(chunks: int, tmp_path: Path) -> None:
    """A long prompt has more than 77 of them, and without CLIP's encoders there are none."""
    clips, t5 = torch.randn(1, 77 * chunks, 4096), torch.randn(1, 90, 4096)
    clips[..., 2048:] = 0
    extra = {"pooled_output": torch.randn(1, 2048), "attention_mask": torch.ones(1, 90)}
    extra["attention_mask"][:, 85:] = 0
    before = [[torch.cat([clips, t5], 1), extra]]
    bundle = direction_bundle(tmp_path, "sd3", {"text": 4096})
    after = steered_conditioning(before, bundle, operator="add", weights="uniform")
    changed = (after[0][0] != before[0][0]).any(-1)[0].nonzero()[:, 0].tolist()
    assert changed == list(range(77 * chunks, 77 * chunks + 85))
    zeros = [[torch.zeros_like(before[0][0]), extra]]
    assert steered_conditioning(zeros, bundle) is zeros
    if chunks:
        message = refusal([[clips, {"pooled_output": extra["pooled_output"]}]], bundle)
        assert "found CLIP's alone. Load the T5 text encoder as well" in message


def test_of_sd3s_long_prompts_the_hosts_t5_is_steered() -> None:
    clip = tiny_clip("sd3")
    tokens = clip.tokenize("a cat on a table, " * 20)
    ((states, extra),) = clip.encode_from_tokens_scheduled(tokens)
    clips = sum(map(len, tokens["l"]))
    assert clips > 77
    (places,) = text_places("sd3", states, extra)
    assert places.tolist() == list(range(clips, states.shape[1]))
    assert len(places) == sum(map(len, tokens["t5xxl"]))


def test_prompts_keep_their_numbers_and_zeroed_ones_stay(tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path, "flux", {"text": WIDTH})
    before = prompt("flux", 1, batch=2)
    before[0][0][0] = 0
    after, scores, fired = SteerConditioningNode.execute(conditioning=before, bundle=bundle, **INPUTS).args
    assert {line.split(":")[0] for line in scores.splitlines()} == {"prompt 2"}
    assert fired
    assert torch.equal(after[0][0][0], before[0][0][0])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16])
def test_small_numbers_are_steered_in_larger_ones(dtype: torch.dtype, tmp_path: Path) -> None:
    bundle, before = direction_bundle(tmp_path, "flux", {"text": WIDTH}), prompt("flux", 1)
    before[0][0] = before[0][0].to(dtype)
    ((after, _),) = steered_conditioning(before, bundle)
    ((expected, _),) = steered_conditioning([[before[0][0].float(), before[0][1]]], bundle)
    assert torch.equal(after.float(), expected.to(dtype).float())
    message = refusal([[before[0][0].to(torch.int64), before[0][1]]], bundle)
    assert "found torch.int64 of shape" in message


def test_a_mask_of_another_batch_says_nothing(tmp_path: Path) -> None:
    bundle, before = (
        direction_bundle(tmp_path, "qwen_image", {"text": WIDTH}),
        prompt("qwen_image", 1, batch=2),
    )
    masked = dict(before[0][1])
    masked["attention_mask"] = masked["attention_mask"][:1].repeat(3, 1)
    ((after, _),) = steered_conditioning([[before[0][0], masked]], bundle, operator="add", weights="uniform")
    assert (after != before[0][0]).any(-1).all()
    one = {**masked, "attention_mask": masked["attention_mask"][:1]}
    ((found, _),) = steered_conditioning([[before[0][0], one]], bundle)
    ((expected, _),) = steered_conditioning(before, bundle)
    assert torch.equal(found, expected)


def test_conditionings_of_other_families_are_refused_by_name(tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path, "hunyuan_video", {"text": WIDTH})
    for key, name in (("conditioning_llama3", "HiDream"), ("unprocessed_ltxav_embeds", "LTX with audio")):
        conditioning = prompt("hunyuan_video", 1)
        conditioning[0][1][key] = torch.ones(1)
        assert f"found a conditioning of {name} ({key})" in refusal(conditioning, bundle)


def test_bundles_without_directions_for_text(tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path, "flux", {"double.0.text": WIDTH})
    assert "expected directions at double.0.text, found text" in refusal(prompt("flux", 1), bundle)


def test_a_mask_of_pairs_says_nothing_of_padding(tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path, "flux", {"text": WIDTH})
    plain, masked = prompt("flux", 1), prompt("flux", 1)
    masked[0][1]["attention_mask"] = torch.zeros(1, 12, 12)
    ((expected, _),) = steered_conditioning(plain, bundle)
    ((found, extra),) = steered_conditioning(masked, bundle)
    assert torch.equal(found, expected)
    assert extra["attention_mask"] is masked[0][1]["attention_mask"]
