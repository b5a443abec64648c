"""Repel and Blend are their equations, and change nothing that no open latent speaks of."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.steering import Blend, FiringRecord, Form, Repel, Site, SteeringError, Step
from steerdit.steering.gates import GateKind

from .dictionaries import CATEGORIES, Dictionary

STEP = Step(Site("text"), sigma=0.5)
seeds = st.integers(0, 10_000)
kinds = st.sampled_from(["always", "token", "image", "both"])
activations = st.sampled_from(["relu", "jumprelu", "topk"])
choices = st.sampled_from([(), ("weapons",), ("bloody",)])
strengths = st.floats(0.05, 3.0)


def tokens(
    seed: int, rows: int = 2, length: int = 5, width: int = 8, dtype: torch.dtype = torch.float64
) -> Tensor:
    return torch.randn(
        rows, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def by_loops(
    dictionary: Dictionary,
    a: Tensor,
    method: str,
    strength: float,
    kind: str,
    names: tuple[str, ...],
    norm: bool,
    form: str,
) -> Tensor:
    """The equations of methods, token by token."""
    names = names or tuple(CATEGORIES)
    source, target = dictionary.tensors.decoder, dictionary.tensors.decoder_adapted
    assert target is not None
    result = a.clone()
    for r, row in enumerate(a):
        codes = [dictionary.codes(token) for token in row]
        for at, token in enumerate(row):
            now_open = dictionary.open_categories(kind, codes, at, names)
            acting = {
                f: codes[at][f] for name in now_open for f in CATEGORIES[name].latents if codes[at][f] != 0
            }
            if form == "paper" and now_open:
                if method == "repel":
                    said = dictionary.decoded(acting, source)
                    new = [float(x) - strength * (s - float(x)) for x, s in zip(token, said)]
                else:
                    said = dictionary.decoded(dict(enumerate(codes[at])), target)
                    new = [(1 - strength) * float(x) + strength * s for x, s in zip(token, said)]
                result[r, at] = torch.tensor(new)
            elif form == "default" and acting:
                step = source * -1.0 if method == "repel" else target - source
                new = [
                    float(token[i])
                    + strength
                    * sum(z * float(step[f, i]) for f, z in acting.items())
                    / dictionary.sae.input_scale
                    for i in range(len(token))
                ]
                length = math.sqrt(sum(x * x for x in new)) if norm else 0.0
                factor = math.sqrt(sum(float(x) ** 2 for x in token)) / length if norm else 1.0
                result[r, at] = torch.tensor([x * factor for x in new])
    return result


@given(seeds, activations, st.sampled_from(["repel", "blend"]), strengths, kinds, choices, st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_default_form(
    seed: int, activation: str, method: str, strength: float, kind: str, names: tuple[str, ...], norm: bool
) -> None:
    dictionary, a = Dictionary.draw(seed, activation), tokens(seed)
    latents, gate = dictionary.gated(kind, *names, whole=activation == "topk")
    modifier = {"repel": Repel, "blend": Blend}[method](latents, gate, strength, norm)
    expected = by_loops(dictionary, a, method, strength, kind, names, norm, "default")
    assert torch.allclose(modifier(a, STEP), expected, rtol=1e-5, atol=1e-5)


@given(seeds, activations, st.sampled_from(["repel", "blend"]), strengths, kinds, choices)
@settings(max_examples=60, deadline=None)
def test_the_papers_form(
    seed: int, activation: str, method: str, strength: float, kind: str, names: tuple[str, ...]
) -> None:
    dictionary, a = Dictionary.draw(seed, activation), tokens(seed)
    latents, gate = dictionary.gated(kind, *names, whole=True)
    modifier = {"repel": Repel, "blend": Blend}[method](latents, gate, strength, True, Form.PAPER)
    expected = by_loops(dictionary, a, method, strength, kind, names, False, "paper")
    assert torch.allclose(modifier(a, STEP), expected, rtol=1e-5, atol=1e-5)


@given(seeds, st.sampled_from([Repel, Blend]), kinds, st.sampled_from(list(Form)))
@settings(max_examples=30, deadline=None)
def test_strength_zero_gives_back_the_very_tensor(seed: int, method: Any, kind: str, form: Form) -> None:
    latents, gate = Dictionary.draw(seed).gated(kind, whole=True)
    a = tokens(seed)
    assert method(latents, gate, 0.0, True, form)(a, STEP) is a


@given(seeds, st.sampled_from([Repel, Blend]), kinds, st.sampled_from(list(Form)))
@settings(max_examples=30, deadline=None)
def test_where_nothing_fires_the_very_tensor_comes_back(
    seed: int, method: Any, kind: str, form: Form
) -> None:
    dictionary = Dictionary.draw(seed)
    assert dictionary.tensors.threshold is not None
    dictionary.tensors.threshold.fill_(1e9)
    latents, gate = dictionary.gated(kind, whole=True)
    a = tokens(seed)
    assert method(latents, gate, 1.0, True, form)(a, STEP) is a


@given(
    seeds,
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    st.sampled_from([Repel, Blend]),
    st.sampled_from(["token", "both"]),
)
@settings(max_examples=30, deadline=None)
def test_a_token_at_which_nothing_acts_keeps_its_bits(
    seed: int, dtype: torch.dtype, method: Any, kind: str
) -> None:
    dictionary, a = Dictionary.draw(seed), tokens(seed, length=40, dtype=dtype)
    latents, gate = dictionary.gated(kind, "weapons")
    before = a.clone()
    after = method(latents, gate, 1.0)(a, STEP)
    assert torch.equal(a, before), "a modifier never writes into what it is given"
    assert after.dtype == dtype
    codes = [[dictionary.codes(token) for token in row.double()] for row in a]
    for r, row in enumerate(codes):
        for at in range(len(row)):
            if not dictionary.open_categories(kind, row, at, ("weapons",)):
                assert torch.equal(after[r, at], before[r, at])


@given(seeds, st.sampled_from([Repel, Blend]), st.floats(0.1, 5.0))
@settings(max_examples=30, deadline=None)
def test_the_norm_is_kept(seed: int, method: Any, strength: float) -> None:
    latents, gate = Dictionary.draw(seed).gated("always")
    a = tokens(seed)
    after = method(latents, gate, strength)(a, STEP)
    assert torch.allclose(after.norm(dim=-1), a.norm(dim=-1), rtol=1e-9)


def test_repel_takes_away_exactly_what_an_orthonormal_latent_says() -> None:
    dictionary = Dictionary.draw(0, "relu")
    t = dictionary.tensors
    basis = torch.eye(12, 8)
    t.encoder.copy_(basis)
    t.decoder.copy_(basis)
    t.encoder_bias.zero_()
    t.decoder_bias.zero_()
    latents, gate = dictionary.gated("always", "bloody")  # latents 4 and 6
    a = tokens(3).abs()
    expected = a.clone()
    expected[..., [4, 6]] = 0
    assert torch.allclose(Repel(latents, gate, 1.0, keep_norm=False)(a, STEP), expected, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("kind", ["image", "token", "always"])
@pytest.mark.parametrize("place", range(8))
def test_an_activation_that_is_not_finite_is_refused_by_site_and_sigma(
    value: float, activation: str, kind: str, place: int
) -> None:
    latents, gate = Dictionary.draw(1, activation).gated(kind, whole=True)
    a = tokens(1)
    a[1, 2, place] = value
    with pytest.raises(SteeringError, match=r"double\.3\.image at sigma 0\.25: expected finite activations"):
        Repel(latents, gate, 0.0)(a, Step(Site.parse("double.3.image"), 0.25))


@pytest.mark.parametrize("method", [Repel, Blend])
def test_a_change_that_the_activations_dtype_cannot_hold_is_refused(method: Any) -> None:
    latents, gate = Dictionary.draw(1).gated("always")
    a = tokens(1, dtype=torch.float16)
    method(latents, gate, 1e5, keep_norm=True)(a, STEP)
    with pytest.raises(SteeringError, match=r"text at sigma 0\.5: .*float16.*overflow.*strength 100000"):
        method(latents, gate, 1e5, keep_norm=False)(a, STEP)


@given(seeds, kinds, st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_what_is_observed_does_not_depend_on_the_strength(seed: int, kind: str, strength: float) -> None:
    dictionary, a = Dictionary.draw(seed), tokens(seed)
    latents, gate = dictionary.gated(kind)
    seen: list[FiringRecord] = []
    Repel(latents, gate, strength)(a, Step(Site("text"), 0.5, images=(0, 1), observe=seen.append))
    (record,) = seen
    assert record.categories == ("weapons", "bloody")
    assert record.latents == (1, 4, 6, 9)
    for r, row in enumerate(a):
        codes = [dictionary.codes(token) for token in row]
        assert record.reading.counts[r].tolist() == [
            sum(code[f] != 0 for code in codes) for f in record.latents
        ]
        for at, code in enumerate(codes):
            for c, (name, category) in enumerate(CATEGORIES.items()):
                score = sum(w * code[f] for f, w in zip(category.latents, category.weights))
                assert float(record.reading.scores[r, at, c]) == pytest.approx(score, rel=1e-5, abs=1e-5)
                assert bool(record.reading.open[r, at, c]) is (
                    name in dictionary.open_categories(kind, codes, at, (name,))
                )


def test_a_topk_dictionary_must_be_whole() -> None:
    with pytest.raises(SteeringError, match="all 12 latents"):
        Dictionary.draw(0, "topk").load(source="demo.safetensors: text")


def test_blend_needs_what_its_form_reads() -> None:
    dictionary = Dictionary.draw(0)
    with pytest.raises(SteeringError, match="all 12 latents"):
        Blend(*dictionary.gated("token"), form=Form.PAPER)
    dictionary.tensors = dictionary.tensors._replace(decoder_adapted=None)
    with pytest.raises(SteeringError, match="decoder_adapted"):
        Blend(*dictionary.gated("token"))


def test_a_strength_that_single_precision_cannot_hold() -> None:
    for strength in (1e308, float("inf"), float("nan"), -1.0):
        with pytest.raises(SteeringError, match="strength"):
            Repel(*Dictionary.draw(0).gated("always"), strength=strength)


def test_no_tokens_are_no_error() -> None:
    latents, gate = Dictionary.draw(0).gated("image")
    empty = torch.zeros(2, 0, 8)
    assert Repel(latents, gate)(empty, STEP) is empty


def test_a_gate_of_another_kind_has_thresholds_of_its_own() -> None:
    latents, gate = Dictionary.draw(0).gated("image")
    with torch.inference_mode():
        z = latents.encode(tokens(0))
        gate.read(z)
    other = replace(gate, kind=GateKind.TOKEN)
    assert torch.equal(other.read(z).thresholds, gate.token.to(z))
    assert not gate.read(z).thresholds.is_inference()
