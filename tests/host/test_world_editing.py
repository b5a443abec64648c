"""The host gives a generator the references that it was trained with: the same tokens, at the same places."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.ldm.flux.model import Flux
from safetensors.torch import load_file
from torch import Tensor

from steerdit.benchmarks.emoji_scenes import in_host, weights
from steerdit.benchmarks.emoji_scenes.generator import Generator, token_ids
from steerdit.host.sampling import Sampling, encode_prompts, sample_prompts

SIZES = [((16, 16),), ((16, 16), (16, 16)), ((8, 24), (16, 16), (24, 8)), ((12, 20), (6, 6), (10, 4))]


def random(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_host_s_flux_with_references_is_the_generator_that_was_trained(
    sizes: tuple[tuple[int, int], ...],
) -> None:
    patcher = in_host.generator()
    comfy.model_management.load_models_gpu([patcher])
    plain = Generator()
    plain.load_state_dict({k: v.float() for k, v in load_file(weights.path("generator")).items()})
    g = torch.Generator().manual_seed(0)
    x, context, y = random(g, 2, 16, 16, 16), random(g, 2, 9, 384), random(g, 2, 384)
    references, t = [random(g, 2, 16, *size) for size in sizes], torch.tensor([0.7, 0.3])
    dit = patcher.model.diffusion_model
    expected = plain.with_image(x, t, context, y, None, *references)[0]
    found = dit(x, t, context, y, ref_latents=references)
    assert (found - expected).norm() / expected.norm() < 1e-4
    assert (found - dit(x, t, context, y)).norm() / expected.norm() > 1e-2


@pytest.mark.parametrize("sizes", SIZES)
def test_positions_are_the_host_s(
    sizes: tuple[tuple[int, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def watched(self: Flux, img: Tensor, img_ids: Tensor, *rest: object, **named: object) -> Tensor:
        seen.append(img_ids[0])
        return img

    monkeypatch.setattr(Flux, "forward_orig", watched)
    dit = in_host.generator().get_model_object("diffusion_model")
    g = torch.Generator().manual_seed(0)
    references = [random(g, 1, 16, *size) for size in sizes]
    dit(
        random(g, 1, 16, 16, 16), torch.ones(1), random(g, 1, 3, 384), random(g, 1, 384),
        ref_latents=references,
    )  # fmt: skip
    torch.testing.assert_close(seen[0], token_ids((8, 8), *sizes))


def test_each_picture_of_a_batch_edits_its_own_reference() -> None:
    model, clip = in_host.generator(), in_host.text_encoder()
    prompts = ["remove the cat", "remove the dog"]
    encoded, sampling = encode_prompts(clip, [*prompts, ""]), Sampling(steps=2)
    references = list(random(torch.Generator().manual_seed(0), 2, 16, 16, 16))

    def made(numbers: list[int]) -> Tensor:
        ((_, latents),) = sample_prompts(
            model, [encoded[i] for i in numbers], encoded[2], numbers, sampling,
            references=[references[i] for i in numbers],
        )  # fmt: skip
        return latents

    both = made([0, 1])
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], made([i]), atol=2e-4, rtol=1e-4)
    ((_, without),) = sample_prompts(model, encoded[:2], encoded[2], [0, 1], sampling)
    assert (without - both).norm() / both.norm() > 1e-2
