"""Autoencoders that standardise each token: what they see, what their codes weigh, what a bundle says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from steerdit.steering import Blend, Form, Repel, Step
from steerdit.steering.errors import BundleError
from steerdit.steering.formats.bundle import open_bundle
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site
from steerdit.steering.standardise import STANDARDISERS

from .bundles import TEXT, rewrite, small_header, small_tensors
from .dictionaries import Dictionary

STEP = Step(Site.parse("text"), 0.5)


def numpy_standardised(name: str, a: np.ndarray) -> tuple[np.ndarray, float, float]:
    """x, centre and spread of one token."""
    if name == "layer_norm":
        centre, spread = a.mean(), a.std(ddof=1)
        return (a - centre) / (spread + 1e-5), float(centre), float(spread)
    if name == "unit_rms":
        spread = float(np.sqrt((a**2).mean()))
        return a / spread, 0.0, spread
    return a, 0.0, 1.0


@pytest.mark.parametrize("name", STANDARDISERS)
def test_tokens_are_standardised_as_defined(name: str) -> None:
    tokens = torch.randn(5, 7, dtype=torch.float64) * 3 + 1
    x, centre, spread = STANDARDISERS[name](tokens)
    for at, token in enumerate(tokens):
        expected = numpy_standardised(name, token.numpy())
        np.testing.assert_allclose(x[at], expected[0], rtol=1e-12)
        np.testing.assert_allclose(centre.expand(5, 1)[at, 0], expected[1], rtol=1e-12)
        np.testing.assert_allclose(spread.expand(5, 1)[at, 0], expected[2], rtol=1e-12)


@pytest.mark.parametrize("name", STANDARDISERS)
def test_a_token_without_length_stays_finite(name: str) -> None:
    assert STANDARDISERS[name](torch.zeros(2, 4)).x.tolist() == [[0.0] * 4] * 2


def standardising(name: str, activation: str, seed: int) -> Dictionary:
    drawn = Dictionary.draw(seed, activation)
    return Dictionary(dataclasses.replace(drawn.sae, input_norm=name, input_scale=1.0), drawn.tensors)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("name", STANDARDISERS)
def test_repel_takes_away_what_latents_say_in_the_activation_s_units(name: str, activation: str) -> None:
    dictionary = standardising(name, activation, seed=4)
    latents, gate = dictionary.gated("always", whole=True)
    tokens = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1)) * 2 + 0.5
    z = latents.encode(tokens)
    steered = Repel(latents, gate, strength=1.5, keep_norm=False)(tokens, STEP)
    paper = Repel(latents, gate, strength=1.5, form=Form.PAPER)(tokens, STEP)
    assert bool((z > 0).any())
    for row, column in np.ndindex(2, 9):
        a = tokens[row, column]
        x, centre, spread = numpy_standardised(name, a.double().numpy())
        codes = dictionary.codes(torch.as_tensor(x))
        chosen = {f: codes[f] for f in latents.latents}
        np.testing.assert_allclose(z[row, column], list(chosen.values()), atol=1e-5)
        said = np.array(dictionary.decoded(chosen, dictionary.tensors.decoder))
        bias = dictionary.tensors.decoder_bias.numpy()
        expected = a.numpy() - 1.5 * spread * (said - bias)
        np.testing.assert_allclose(steered[row, column], expected, atol=1e-4)
        if any(chosen.values()):
            literal = a.numpy() - 1.5 * (spread * said + centre - a.numpy())
            np.testing.assert_allclose(paper[row, column], literal, atol=1e-4)


def test_blend_speaks_in_the_activation_s_units_too() -> None:
    dictionary = standardising("layer_norm", "relu", seed=5)
    latents, gate = dictionary.gated("always", whole=True)
    tokens = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(2)) * 4 - 1
    blended = Blend(latents, gate, strength=1.0, keep_norm=False)(tokens, STEP)
    difference = (dictionary.tensors.decoder_adapted - dictionary.tensors.decoder)[list(latents.latents)]
    expected = tokens + tokens.std(-1, keepdim=True) * (latents.encode(tokens) @ difference)
    torch.testing.assert_close(blended, expected, atol=1e-4, rtol=1e-4)
    whole = Blend(latents, gate, strength=1.0, form=Form.PAPER)(tokens, STEP)
    acting = (latents.encode(tokens) > 0).any(-1)
    torch.testing.assert_close(whole[acting], latents.reconstruct_adapted(tokens)[acting])


def header_with(name: str, scale: float = 1.0):
    site = dataclasses.replace(small_header().sites[TEXT], input_norm=name, input_scale=scale)
    return small_header(sites={TEXT: site})


def test_a_bundle_says_how_its_tokens_are_standardised(tmp_path: Path) -> None:
    for name in STANDARDISERS:
        header = header_with(name)
        path = tmp_path / f"{name}.safetensors"
        assert write_bundle(path, header, small_tensors(header)).header == header
        assert (b'input_norm\\"' in path.read_bytes()) == (name != "none")  # older readers know none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_norm": "batch_norm"},
            r"sites\.text\.input_norm: expected 'none' or 'layer_norm' or 'unit_rms'",
        ),
        ({"input_norm": 3}, r"sites\.text\.input_norm"),
        (
            {"input_norm": "layer_norm", "input_scale": 0.5},
            r"sites\.text\.input_scale: expected 1, as input_norm",
        ),
    ],
)
def test_a_bundle_cannot_say_what_steering_cannot_do(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    header = header_with("none")
    sound = tmp_path / "sound.safetensors"
    write_bundle(sound, header, small_tensors(header))
    changed = rewrite(
        sound, tmp_path / "changed.safetensors", header=lambda it: it["sites"]["text"].update(change)
    )
    with pytest.raises(BundleError, match=message):
        open_bundle(changed)
