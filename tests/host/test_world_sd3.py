"""The demo's SD3 generator is the host's: detected from its file, equal in what it computes, ready to sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerdit.benchmarks.emoji_scenes import in_host
from steerdit.benchmarks.emoji_scenes.generator_sd3 import SD3Config, SD3Generator
from steerdit.benchmarks.emoji_scenes.train_generator import export
from steerdit.host.families import family_of
from steerdit.host.sampling import Sampling, encode_prompts, sample_prompts
from steerdit.steering.errors import SteeringError
from steerdit.steering.sites import Site


def random(config: SD3Config, seed: int = 0) -> SD3Generator:
    """A generator in which everything matters, modulations too."""
    net, g = config.build(), torch.Generator().manual_seed(seed)
    for name, values in net.named_parameters():
        if name != "pos_embed":
            fan_in = values[0].numel() if values.ndim > 1 else 25
            values.data = torch.randn(values.shape, generator=g) / fan_in**0.5 + (".ln_" in name)
    return net


def in_the_host(net: SD3Generator, folder: Path) -> Any:
    file = folder / "sd3.safetensors"
    save_file(net.state_dict(), file)
    patcher = in_host.generator("sd3", file)
    comfy.model_management.load_models_gpu([patcher])
    return patcher


def inputs(height: int, width: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(*shape, generator=g) for shape in ((3, 16, height, width), (3, 11, 384), (3, 384))
    )


@pytest.mark.parametrize("blocks", [3, 4])
def test_the_host_takes_its_file_for_sd3_of_its_width(blocks: int, tmp_path: Path) -> None:
    patcher = in_the_host(random(SD3Config(blocks)), tmp_path)
    dit = patcher.get_model_object("diffusion_model")
    assert isinstance(patcher.model.model_config, comfy.supported_models.SD3)
    assert (dit.hidden_size, len(dit.joint_blocks), dit.pos_embed_max_size) == (64 * blocks, blocks, 16)
    family = family_of(dit)
    assert family.name == "sd3"
    assert family.width(dit, Site("joint", blocks - 1, "image")) == 64 * blocks
    with pytest.raises(SteeringError, match="no text output"):
        family.width(dit, Site("joint", blocks - 1, "text"))


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (20, 32)])
def test_the_host_computes_unpadded_what_is_trained_padded(size: tuple[int, int], tmp_path: Path) -> None:
    net = random(SD3Config())
    dit = in_the_host(net, tmp_path).model.diffusion_model
    (x, context, y), t, lengths = inputs(*size), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([11, 2, 7])
    expected = net(x, t, context, y, lengths)
    for i, length in enumerate(lengths):
        row = slice(i, i + 1)
        found = dit(x[row], 1000 * t[row], context=context[row, :length], y=y[row])
        assert (found - expected[row]).norm() / expected[row].norm() < 1e-4


def test_what_is_exported_is_what_the_host_loads(tmp_path: Path) -> None:
    net = random(SD3Config())
    torch.save({"average": net.state_dict()}, tmp_path / "checkpoint.pt")
    export(tmp_path / "checkpoint.pt", tmp_path / "exported.safetensors")
    patcher = in_host.generator("sd3", tmp_path / "exported.safetensors")
    comfy.model_management.load_models_gpu([patcher])
    net.load_state_dict({name: values.half().float() for name, values in net.state_dict().items()})
    (x, context, y), t = inputs(16, 16), torch.tensor([0.9, 0.5, 0.1])
    found, expected = patcher.model.diffusion_model(x, 1000 * t, context=context, y=y), net(x, t, context, y)
    assert (found - expected).norm() / expected.norm() < 1e-4


def test_the_host_samples_prompts_of_unequal_length(tmp_path: Path) -> None:
    patcher, vae = in_the_host(random(SD3Config()), tmp_path), in_host.LatentCodec("sd3")
    encoded = encode_prompts(in_host.text_encoder(), ["a cat", "a dagger on the left and a cat", ""])
    made = dict.fromkeys(range(2))
    for numbers, latents in sample_prompts(patcher, encoded[:2], encoded[2], [0, 1], Sampling(steps=2)):
        made |= zip(numbers, vae.decode(latents), strict=True)
    for picture in made.values():
        assert picture is not None
        assert picture.shape == (128, 128, 3)
        assert picture.isfinite().all()


def test_the_codec_speaks_sd3_s_latents() -> None:
    vae, grey = in_host.LatentCodec("sd3"), torch.full((1, 128, 128, 3), 0.6)
    latents = vae.encode(grey)
    torch.testing.assert_close(vae.decode(latents), grey, atol=0.03, rtol=0)
    inside = vae.format.process_in(latents)
    torch.testing.assert_close(inside, vae.codec.encode(grey.movedim(-1, 1)), atol=1e-4, rtol=1e-4)
