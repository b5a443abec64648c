"""A TopK dictionary fires exactly, by calibrated thresholds or without competition, and says which and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit import kernels
from steerdit.steering import SelectedLatents, Site, SteeringError
from steerdit.steering.competition import TopK, rule_at
from steerdit.steering.formats.header import Base, BundleHeader, Made
from steerdit.steering.formats.writing import write_bundle

from .dictionaries import Dictionary

seeds = st.integers(0, 10_000)
SITE = Site("text")


def calibrated(seed: int) -> Dictionary:
    """A TopK dictionary that stores thresholds."""
    dictionary = Dictionary.draw(seed, "topk")
    dictionary.tensors = dictionary.tensors._replace(threshold=torch.full((12,), 0.4))
    return dictionary


def tokens(seed: int, length: int = 9) -> Tensor:
    return torch.randn(2, length, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pre_activations(dictionary: Dictionary, token: Tensor) -> Tensor:
    """(N,) by the stored equations."""
    t = dictionary.tensors
    centred = dictionary.sae.input_scale * token - t.decoder_bias.double()
    return t.encoder.double() @ centred + t.encoder_bias.double()


@given(seeds, st.sampled_from(["threshold", "relu", "exact", "auto"]))
@settings(deadline=None, max_examples=60)
def test_each_way_is_its_rule(seed: int, way: str) -> None:
    dictionary, a = calibrated(seed), tokens(seed)
    latents = dictionary.load(whole=way == "exact", topk=way)[0]
    z = latents.encode(a)
    for token, code in zip(a.reshape(-1, 8), z.reshape(-1, len(latents.latents))):
        pre = pre_activations(dictionary, token)
        if way == "exact":
            fires = torch.zeros(12, dtype=torch.bool)
            fires[pre.topk(3).indices] = True
            fires &= pre > 0
        else:
            fires = pre > (0.0 if way == "relu" else 0.4)
        expected = (pre * fires)[list(latents.latents)]
        assert torch.allclose(code, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("has_threshold", "way", "competing", "why"),
    [
        (True, "auto", False, "threshold because the bundle holds calibrated ones: approximate"),
        (False, "auto", True, "exact because the bundle holds no calibrated thresholds: the whole"),
        (True, "exact", True, "exact as chosen: the whole dictionary is loaded"),
        (True, "threshold", False, "threshold as chosen: approximate"),
        (False, "relu", False, "relu as chosen: every positive latent fires, more than in training"),
    ],
)
def test_which_way_runs_and_why(
    has_threshold: bool, way: str, competing: bool, why: str, tmp_path: Path
) -> None:
    dictionary = calibrated(0) if has_threshold else Dictionary.draw(0, "topk")
    header = BundleHeader("b", "flux", Base("any"), "MIT", Made("tests"), {SITE: dictionary.sae})
    stored = dictionary.tensors._asdict()
    del stored["indices"]
    bundle = write_bundle(
        tmp_path / "b.safetensors",
        header,
        {f"text.{name}": tensor for name, tensor in stored.items() if tensor is not None},
    )
    rule = rule_at(bundle, SITE, way)
    assert rule.competing is competing
    assert rule.why.startswith("topk 3 of 12, ")
    assert why in rule.why
    selected = dictionary.sae.selected()
    read = bundle.read_latents(SITE, None if competing else selected)
    assert SelectedLatents(bundle.sites[SITE], read, selected, topk=way).rule == rule


@pytest.mark.parametrize("way", list(TopK))
@pytest.mark.parametrize(
    ("activation", "why"), [("relu", "where it is positive"), ("jumprelu", "stored threshold")]
)
def test_other_activations_know_one_way(activation: str, why: str, way: TopK) -> None:
    rule = Dictionary.draw(0, activation).load(topk=way)[0].rule
    assert not rule.competing
    assert rule.why.startswith(f"{activation}, exact")
    assert why in rule.why


def test_thresholds_that_are_not_there_are_refused() -> None:
    with pytest.raises(SteeringError, match=r"demo: text: expected calibrated thresholds .*found a TopK"):
        Dictionary.draw(0, "topk").load(topk="threshold", source="demo: text")


@pytest.mark.parametrize("has_threshold", [True, False])
def test_exact_is_refused_without_the_whole_dictionary(has_threshold: bool) -> None:
    dictionary = calibrated(0) if has_threshold else Dictionary.draw(0, "topk")
    with pytest.raises(
        SteeringError, match=r"demo: text: expected all 12 latents .*exact TopK.*found 4 of them"
    ):
        dictionary.load(topk="exact", source="demo: text")


def test_only_tokens_with_a_positive_latent_ask_the_whole_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary, a = Dictionary.draw(5, "topk"), tokens(5, 40)
    latents = dictionary.load("weapons", whole=True)[0]
    asked: list[int] = []
    encode_topk = kernels.encode_topk

    def watched(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        asked.append(len(x))
        return encode_topk(x, *rest)

    monkeypatch.setattr(kernels, "encode_topk", watched)
    latents.encode(a)
    pre = torch.stack([pre_activations(dictionary, token) for token in a.reshape(-1, 8)])
    positive = int((pre[:, list(latents.latents)] > 0).any(-1).sum())
    assert asked == [positive]
    assert 0 < positive < 80
