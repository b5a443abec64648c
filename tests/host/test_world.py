"""The demo's models are what they say: in the host they give what they gave where they were trained."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from safetensors.torch import load_file

from steerdit.benchmarks.emoji_scenes import in_host, text, weights
from steerdit.benchmarks.emoji_scenes.codec import LinearCodec
from steerdit.benchmarks.emoji_scenes.generator import Generator
from steerdit.host.families import family_of
from steerdit.steering.formats.bundle import open_bundle, verify

SENTENCES = [
    "a dagger on the left and a cat on the right",
    "",
    "a glass of milk on a blue background, flat drawing",
]


def test_the_host_s_bert_is_minilm() -> None:
    clip = in_host.text_encoder()
    with torch.inference_mode(False):
        encoder = text.TextEncoder()
        encoder.model.half().float()  # the host keeps text encoders in float16
        states, lengths = encoder(SENTENCES)
        means = text.pooled(states, lengths)
    for sentence, expected, length, mean in zip(SENTENCES, states, lengths, means, strict=True):
        found, extra = clip.encode_from_tokens_scheduled(clip.tokenize(sentence))[0]
        torch.testing.assert_close(found[0], expected[:length], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(extra["pooled_output"][0], mean, atol=1e-4, rtol=1e-4)


def test_the_host_s_flux_is_the_generator_that_was_trained() -> None:
    patcher = in_host.generator()
    comfy.model_management.load_models_gpu([patcher])
    plain = Generator()
    plain.load_state_dict({k: v.float() for k, v in load_file(weights.path("generator")).items()})
    g = torch.Generator().manual_seed(0)
    x, context, y = (torch.randn(*shape, generator=g) for shape in ((2, 16, 16, 16), (2, 9, 384), (2, 384)))
    t = torch.tensor([0.7, 0.3])
    expected = plain(x, t, context, y)
    found = patcher.model.diffusion_model(x, t, context, y)
    assert (found - expected).norm() / expected.norm() < 1e-4


def test_padding_changes_nothing() -> None:
    plain = Generator()
    plain.load_state_dict({k: v.float() for k, v in load_file(weights.path("generator")).items()})
    g = torch.Generator().manual_seed(1)
    x, context, y = (torch.randn(*shape, generator=g) for shape in ((1, 16, 16, 16), (1, 9, 384), (1, 384)))
    t, padded = torch.tensor([0.5]), torch.nn.functional.pad(context, (0, 0, 0, 4))
    expected = plain(x, t, context, y)
    found = plain(x, t, padded, y, torch.tensor([9]))
    assert (found - expected).norm() / expected.norm() < 1e-4


def test_the_vae_object_is_the_codec() -> None:
    vae, codec = in_host.LatentCodec(), LinearCodec.load(weights.path("codec"))
    pictures = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    latents = vae.encode(pictures)
    assert latents.shape == (2, 16, 16, 16)
    expected = codec.decode(codec.encode(pictures.movedim(-1, 1))).movedim(1, -1)
    torch.testing.assert_close(vae.decode(latents), expected, atol=1e-5, rtol=1e-5)
    grey = torch.full((1, 128, 128, 3), 0.6)  # what the codec can hold, it gives back
    torch.testing.assert_close(vae.decode(vae.encode(grey)), grey, atol=0.03, rtol=0)


def test_the_shipped_bundle_is_whole_and_fits_the_generator() -> None:
    bundle, dit = open_bundle(weights.path("bundle")), in_host.generator().get_model_object("diffusion_model")
    verify(weights.path("bundle"))
    family = family_of(dit)
    assert bundle.family == family.name
    assert {site.block for site in bundle.sites} == {"text", "double", "single"}
    for site, sae in bundle.sites.items():
        assert family.width(dit, site) == sae.width
        assert set(sae.categories) <= {"weapons", "alcohol", "bloody", "burning"}


@pytest.mark.parametrize("category", ["weapons", "alcohol", "bloody", "burning"])
def test_every_category_has_latents_at_the_text(category: str) -> None:
    (words,) = (
        sae for site, sae in open_bundle(weights.path("bundle")).sites.items() if site.block == "text"
    )
    assert words.categories[category].latents
