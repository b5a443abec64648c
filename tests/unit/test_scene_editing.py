"""An instruction changes what it names and nothing else; what ships of the editor stands for what was trained."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from steerdit.benchmarks.emoji_scenes import weights
from steerdit.benchmarks.emoji_scenes.concepts import CONCEPTS, STYLES, category_of
from steerdit.benchmarks.emoji_scenes.dataset import PARTS, Batch, parts
from steerdit.benchmarks.emoji_scenes.drawing import PICTURE
from steerdit.benchmarks.emoji_scenes.editing.dataset import pictures
from steerdit.benchmarks.emoji_scenes.editing.difference import pack, quantise, restore, unpack
from steerdit.benchmarks.emoji_scenes.editing.instructions import KINDS, Edit, edit, side_of
from steerdit.benchmarks.emoji_scenes.generator import Generator, GeneratorConfig, token_ids
from steerdit.benchmarks.emoji_scenes.scenes import PAIRS, SceneSource
from steerdit.benchmarks.emoji_scenes.train_generator import CHANGED, weights_of

seeds = st.integers(0, 2**31)


class Undrawn(SceneSource):
    """Scenes as they are chosen; nothing is drawn, so no icons are needed."""

    def __init__(self) -> None:
        self.icons, self.styles, self.layout = Path(), STYLES, PAIRS
        self.can_draw = {s.package: frozenset(c.name for c in CONCEPTS) for s in STYLES}


SOURCE = Undrawn()


def made(kind: str, seed: int) -> Edit:
    return edit(SOURCE, seed, kind)


@given(seeds, st.sampled_from(sorted(KINDS)))
def test_all_but_what_comes_and_goes_stays(seed: int, kind: str) -> None:
    e = made(kind, seed)
    assert {*e.untouched, *e.went} == set(e.before.objects)
    assert {*e.untouched, *e.came} == set(e.after.objects)
    assert (len(e.came), len(e.went)) == {
        "add": (1, 0), "replace": (1, 1), "remove": (0, 1), "move": (1, 1), "background": (0, 0),
        "befall": (1, 1), "cure": (1, 1), "keep": (0, 0),
    }[kind]  # fmt: skip
    assert (e.before.ground == e.after.ground) == (kind != "background")
    assert e.before.style == e.after.style
    assert (e.before == e.after) == (kind == "keep")


@given(seeds, st.sampled_from(["replace", "remove", "befall"]))
def test_of_two_things_the_words_say_the_side(seed: int, kind: str) -> None:
    e = made(kind, seed)
    said = f" on the {side_of(e.went[0])}"
    assert (said in e.text) == (len(e.before.objects) == 2)


@given(seeds)
def test_words_say_where_the_new_thing_lies(seed: int) -> None:
    e = made("add", seed)
    (new,) = e.came
    assert f"on the {side_of(new)}" in e.text or "next to" in e.text
    assert e.before.objects or f"{e.before.style.words} drawing" in e.text
    e = made("move", seed)
    assert f"to the {side_of(e.came[0])}" in e.text
    assert e.came[0] == replace(e.went[0], x=PICTURE - e.went[0].x)


@given(seeds)
def test_a_replacement_leaves_place_and_extent(seed: int) -> None:
    e = made("replace", seed)
    (old,), (new,) = e.went, e.came
    assert old.concept != new.concept
    assert (old.x, old.y) == (new.x, new.y)
    assert old.extent == pytest.approx(new.extent)


@given(seeds, st.sampled_from(["befall", "cure"]))
def test_a_state_comes_over_a_benign_thing_or_leaves_it(seed: int, kind: str) -> None:
    e = made(kind, seed)
    (old,), (new,) = e.went, e.came
    assert (new if kind == "cure" else old).attribute is None
    assert (old if kind == "cure" else new).attribute in {"bloody", "burning"}
    assert old == replace(new, attribute=old.attribute, variant=old.variant)
    assert category_of(old.concept) == "benign"


@given(seeds)
def test_things_lie_in_the_picture_without_touching_and_nothing_is_there_twice(seed: int) -> None:
    e = edit(SOURCE, seed)
    for scene in (e.before, e.after):
        told = parts(scene)
        assert (told.max(0) < PARTS).all()
        for o in scene.objects:
            assert all(o.extent / 2 - 1e-6 <= at <= PICTURE - o.extent / 2 + 1e-6 for at in (o.x, o.y))
        if len(scene.objects) == 2:
            left, right = scene.objects
            assert left.x + left.extent / 2 <= right.x - right.extent / 2 + 1e-6
            assert left.concept != right.concept
            assert not left.attribute or left.attribute != right.attribute
    assert edit(SOURCE, seed) == e


def test_unsafe_instructions_unsafe_references_and_benign_edits_are_all_common() -> None:
    edits = [edit(SOURCE, seed) for seed in range(1000)]
    asked = sum(e.asks_for is not None for e in edits)
    there = sum(e.asks_for is None and e.has is not None for e in edits)
    assert min(asked, there, len(edits) - asked - there) > 200
    assert {e.kind for e in edits} == set(KINDS)


@pytest.mark.skipif("STEERDIT_ICONS" not in os.environ, reason="icon sets come by npm")
@pytest.mark.parametrize("kind", KINDS)
def test_the_drawn_target_is_the_reference_outside_what_changes(kind: str) -> None:
    from steerdit.benchmarks.emoji_scenes.icons import icons

    source = SceneSource(icons(), layout=PAIRS)
    edits = [edit(source, seed, kind) for seed in range(20)]
    for e, before, after in zip(edits, *pictures(source, edits), strict=True):
        may = torch.zeros(PICTURE, PICTURE, dtype=torch.bool)
        for o in (*e.came, *e.went):
            top, left = (max(0, int(at - o.extent / 2) - 1) for at in (o.y, o.x))
            may[top : int(o.y + o.extent / 2) + 2, left : int(o.x + o.extent / 2) + 2] = True
        differs = (before != after).any(0)
        if kind == "background":
            assert differs.any()
            (again,) = pictures(source, [replace(e, before=replace(e.before, ground=e.after.ground))])[0]
            assert torch.equal(again, after)
        else:
            assert not (differs & ~may).any()
            assert differs.any() == (kind != "keep")


def test_changed_tokens_count_more() -> None:
    reference = torch.zeros(1, 16, 16, 16)
    target = reference.clone()
    target[0, 3, 5, 9] = 1
    nothing = torch.zeros(1)
    found = weights_of(Batch(target, nothing, nothing, nothing, nothing, (reference,), (nothing,)))
    assert isinstance(found, torch.Tensor)
    assert (found == CHANGED).nonzero().tolist() == [[0, 0, y, x] for y in (4, 5) for x in (8, 9)]
    assert (found != CHANGED).sum() == 252
    assert (found[found != CHANGED] == 1).all()
    assert weights_of(Batch(target, nothing, nothing, nothing, nothing)) == 1


def test_reference_tokens_follow_the_picture_s_on_their_own_plane() -> None:
    ids = token_ids((8, 8), (16, 16), (16, 16))
    assert ids[:64, 0].eq(0).all()
    assert ids[64:, 0].eq(1).all()
    assert torch.equal(ids[64:128, 1:], ids[:64, 1:])  # the first lies where the picture does
    assert torch.equal(ids[128:, 1:], ids[:64, 1:] + torch.tensor([8, 0]))  # the second below it


def test_a_reference_changes_the_velocity_and_brings_its_tokens() -> None:
    torch.manual_seed(0)
    net = Generator(GeneratorConfig(128, 1, 1, 8, 4))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, context, y = torch.randn(2, 4, 4, 4), torch.randn(2, 3, 8), torch.randn(2, 8)
    t, reference = torch.tensor([0.2, 0.9]), torch.randn(2, 4, 6, 4)
    alone, _ = net.with_image(x, t, context, y)
    beside, image = net.with_image(x, t, context, y, None, reference)
    assert beside.shape == alone.shape
    assert image.shape == (2, 4 + 6, 128)
    assert not torch.allclose(alone, beside)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 100), st.floats(1e-3, 10))
def test_four_bits_keep_a_matrix_to_a_seventh_of_its_largest_weight(
    rows: int, blocks: int, seed: int, size: float
) -> None:
    x = torch.randn(rows, 64 * blocks, generator=torch.Generator().manual_seed(seed)) * size
    codes, scales = quantise(x)
    assert codes.shape == (rows, 32 * blocks)
    assert codes.dtype == torch.uint8
    assert scales.shape == (rows, blocks)
    found = restore(codes, scales)
    assert (found - x).norm() / x.norm() < 0.15
    exact = (torch.randint(-7, 8, (rows, 64 * blocks)) * 2.0).index_fill(1, torch.tensor(0), 14.0)
    exact = exact.unflatten(1, (-1, 64)).index_fill(2, torch.tensor(0), 14.0).flatten(1)
    torch.testing.assert_close(restore(*quantise(exact)), exact)
    assert not restore(*quantise(torch.zeros(2, 64))).any()


def test_the_editor_comes_back_from_the_generator_and_the_difference(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    begun = {"a.weight": torch.randn(6, 128, generator=g), "a.bias": torch.randn(6, generator=g)}
    grown = {k: v + 0.1 * torch.randn(v.shape, generator=g) for k, v in begun.items()}
    files = [tmp_path / f"{name}.safetensors" for name in ("begun", "grown", "difference", "other")]
    save_file({k: v.half() for k, v in begun.items()}, files[0])
    save_file({k: v.half() for k, v in grown.items()}, files[1])
    save_file({k: v.half() + 1 for k, v in begun.items()}, files[3])
    pack(files[0], files[1], files[2])
    found = unpack(files[0], files[2])
    torch.testing.assert_close(found["a.bias"].float(), grown["a.bias"], atol=4e-3, rtol=0)
    apart = found["a.weight"].float() - grown["a.weight"]
    assert apart.norm() < 0.15 * (grown["a.weight"] - begun["a.weight"]).norm()
    assert load_file(files[2])["a.weight.codes"].numel() == 6 * 64
    with pytest.raises(ValueError, match="another generator"):
        unpack(files[3], files[2])


def test_the_editor_is_put_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERDIT_WORLD", str(tmp_path))
    generator, editing = (tmp_path / weights.FILES[name] for name in ("generator", "editing"))
    for step in (1.0, 2.0):
        save_file({"a": torch.zeros(2, 64).half()}, generator)
        save_file({"a": torch.full((2, 64), step).half()}, tmp_path / "grown.safetensors")
        pack(generator, tmp_path / "grown.safetensors", editing)
        found = weights.editor(tmp_path / "cache")
        assert (load_file(found)["a"] == step).all()
        written = found.stat().st_mtime_ns
        assert weights.editor(tmp_path / "cache").stat().st_mtime_ns == written
    editing.unlink()
    with pytest.raises(FileNotFoundError, match="--editing"):
        weights.editor(tmp_path / "cache")
