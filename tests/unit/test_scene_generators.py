"""The generators of both architectures are trained alike: which parameters learn, and by which optimizer."""

from __future__ import annotations

import pytest
import torch

from steerdit.benchmarks.emoji_scenes.generator import GeneratorConfig
from steerdit.benchmarks.emoji_scenes.generator_sd3 import SD3Config, positions
from steerdit.benchmarks.emoji_scenes.train_generator import COURSES, Config, is_hidden

TINY = (GeneratorConfig(128, 1, 1, 8, 4), SD3Config(2, 8, 4))
BEYOND = "joint_blocks.1.context_block.attn.ln_q.weight"  # queries of the text that ends in the last block


@pytest.mark.parametrize("config", TINY)
def test_every_parameter_learns(config: Config) -> None:
    net = config.build()
    for values in net.parameters():
        torch.nn.init.normal_(values, std=0.1)
    velocity = net(torch.randn(2, 4, 4, 4), torch.tensor([0.2, 0.9]), torch.randn(2, 3, 8), torch.randn(2, 8))
    assert velocity.shape == (2, 4, 4, 4)
    velocity.square().sum().backward()
    for name, values in net.named_parameters():
        assert values.grad is not None
        assert values.grad.any() or name == BEYOND, name


@pytest.mark.parametrize("config", TINY)
def test_it_begins_by_predicting_nothing_whatever_it_sees(config: Config) -> None:
    net, x = config.build(), torch.randn(2, 4, 4, 4)
    velocity, image = net.with_image(x, torch.tensor([0.2, 0.9]), torch.randn(2, 3, 8), torch.randn(2, 8))
    assert not velocity.any()
    assert image.shape == (2, 4, config.width)


@pytest.mark.parametrize("architecture", COURSES)
def test_muon_is_given_the_matrices_between_hidden_states(architecture: str) -> None:
    net = COURSES[architecture][0].build()
    hidden = {name for name, values in net.named_parameters() if values.ndim == 2 and is_hidden(name)}
    assert all("_blocks." in name and name.endswith("weight") for name in hidden)
    assert not [name for name in hidden if "mod" in name.removeprefix("single_blocks")]
    assert len(hidden) == {"flux": 2 * 8 + 3 * 2, "sd3": 3 * 8 - 3}[architecture]


def test_checkpoints_are_named_by_architecture() -> None:
    assert [config.tag for config, _ in COURSES.values()] == ["256-2-3", "sd3-192-3"]


def test_every_place_has_its_own_position() -> None:
    table = positions(16, 192)[0]
    assert table.shape == (256, 192)
    apart = torch.cdist(table, table) + torch.eye(256) * 1e9
    assert apart.min() > 1
