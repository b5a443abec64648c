"""What the tokens of a drawn scene are said to show is what lies there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerdit.benchmarks.emoji_scenes.concepts import BENIGN, BY_NAME, CONCEPTS, STYLES
from steerdit.benchmarks.emoji_scenes.dataset import PARTS, parts
from steerdit.benchmarks.emoji_scenes.drawing import FLAMES, Placed
from steerdit.benchmarks.emoji_scenes.generator import Generator, GeneratorConfig
from steerdit.benchmarks.emoji_scenes.scenes import Layout, Scene, caption, compose
from steerdit.benchmarks.emoji_scenes.train_generator import grow

NAMES = [c.name for c in CONCEPTS]


def scene(*objects: Placed) -> Scene:
    return Scene(STYLES[0], "white", objects, "")


def test_a_thing_covers_the_tokens_under_it() -> None:
    told = parts(scene(Placed("cat", 32 + 24, 16 + 24, 48))).reshape(8, 8, 3)
    covered = np.argwhere(told[..., 0])
    assert covered.min(0).tolist() == [1, 2]
    assert covered.max(0).tolist() == [3, 4]
    assert set(told[1:4, 2:5, 0].flatten()) == {1 + NAMES.index("cat")}
    assert len(set(told[1:4, 2:5, 2].flatten())) == 9  # every piece is another


def test_flames_count_and_the_rest_is_background() -> None:
    told = parts(scene(Placed("house", 32, 96, 64 / FLAMES, attribute="burning"))).reshape(8, 8, 3)
    assert (told[4:, :4, 1] == 2).all()
    assert not told[:4].any()
    assert not told[:, 4:].any()


def test_every_scene_s_answers_are_within_the_kinds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        things = [(str(c), "burning") for c in rng.choice([c.name for c in BENIGN], 2)]
        told = parts(scene(*compose(rng, things, Layout())))
        assert (told.max(0) < PARTS).all()
        assert np.count_nonzero(told[:, 0]) in {9 + 9, 9 + 16, 16 + 16}


def test_a_generator_grown_deeper_computes_the_same() -> None:
    torch.manual_seed(0)
    small, deep = (Generator(GeneratorConfig(128, 1, n, 8, 4)) for n in (1, 3))
    torch.nn.init.normal_(small.final_layer.linear.weight)
    grow(deep, small.state_dict())
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([0.2, 0.9])
    context, y = torch.randn(2, 3, 8), torch.randn(2, 8)
    torch.testing.assert_close(deep(x, t, context, y), small(x, t, context, y))
    with pytest.raises(ValueError, match="another generator"):
        grow(small, {"img_in.weight": small.img_in.weight})


def test_captions_in_order_name_from_left_to_right() -> None:
    pair = (Placed("cat", 32, 32, 64), Placed("bomb", 96, 32, 64))
    cats, bombs = ((n, *BY_NAME[n].synonyms) for n in ("cat", "bomb"))
    for seed in range(60):
        said = caption(np.random.default_rng(seed), None, None, pair, seed % 2 == 0, in_order=True)
        cat, bomb = (min(said.find(n) for n in names if n in said) for names in (cats, bombs))
        assert (cat < bomb) != ("on the right and" in said)
