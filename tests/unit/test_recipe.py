"""What a recipe may say, and that what it may not is refused by file, line and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerdit.steering.errors import SteeringError
from steerdit.steering.formats.header import Category, GateThresholds, RateRecord
from steerdit.training.recipes import Recipe, read_recipe
from steerdit.training.recipes.lists import read_lists
from steerdit.training.recipes.making import make_bundle
from steerdit.training.recipes.work import Work, categories_of, file_identity, key

RECIPES = Path(__file__).resolve().parents[2] / "example_recipes"
TEXT = """
[model]
diffusion_model = "model.safetensors"
text_encoders = ["clip_l.safetensors"]
base = "a FLUX"

[prompts]
file = "prompts.jsonl"

[record]
steps = 4

[train]
k = 8

[bundle]
file = "made.safetensors"
license = "MIT"
"""


def recipe(folder: Path, *changes: tuple[str, str], **settings: str) -> Recipe:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    return read_recipe(folder / "mine.toml", settings)


def test_what_is_left_out_has_its_default_and_paths_start_from_the_file(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    assert (found.record.steps, found.record.width, found.training.k, found.select.count) == (4, 1024, 8, 16)
    assert found.path(found.prompts.file) == tmp_path / "prompts.jsonl"
    assert found.path("/elsewhere/a.jsonl") == Path("/elsewhere/a.jsonl")


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_recipes_of_the_pack_can_be_read(file: Path) -> None:
    found = read_recipe(file)
    if found.path(found.prompts.file).exists():
        lists = read_lists(found)
        assert len(lists.training) > len(lists.calibration) > 50


def test_a_json_file_says_the_same(tmp_path: Path) -> None:
    import dataclasses

    tomllib = pytest.importorskip("tomllib")
    (tmp_path / "mine.json").write_text(json.dumps(tomllib.loads(TEXT)), encoding="utf-8")
    assert dataclasses.asdict(read_recipe(tmp_path / "mine.json")) == dataclasses.asdict(recipe(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 4", "stepps = 4", r"mine\.toml: line 11: record\.stepps: .*Did you mean 'steps'"),
        ("k = 8", "kk = 8", r"line 14: train\.kk: expected only sites, labels, counterfactuals, expansion"),
        ("[record]", "[recording]", r"line 10: recording: .*Did you mean 'record'"),
        ("steps = 4", "steps = 0", r"line 11: record\.steps: expected a whole number, at least 1|1 to"),
        ("steps = 4", 'dtype = "int8"', r"line 11: record\.dtype: expected 'bfloat16' or"),
        ("steps = 4", 'cfg = "much"', r"line 11: record\.cfg: expected a finite number"),
        ("k = 8", "k = -1", r"line 14: train: k: expected a whole number"),
        ("k = 8", 'labels = ["odd"]', r"line 14: train\.labels: expected some of unsafe"),
        ("[record]", "[adapt]\non = 1\n[record]", r"adapt\.on: expected true or false"),
        (
            "[record]",
            "[adapt]\nreplay = 2.0\n[record]",
            r"adapt\.replay: expected a finite number, 0 to 0\.9",
        ),
        ("[record]", '[select]\nmethod = "guess"\n[record]', r"select\.method: expected 'score' or 'flips'"),
        (
            "[record]",
            "[adapt]\nbatch = 1\n[record]",
            r"mine\.toml: \[adapt\], adaptation: batch: expected so many",
        ),
        ("[record]", "[route]\ncost = -1\n[record]", r"route\.cost: expected a finite number, 0"),
        ("[record]", "prompts = 3\n[record]", r"prompts\.prompts"),
        ('file = "prompts.jsonl"', "", r"prompts: expected the key 'file'"),
        ('base = "a FLUX"', "", r"model: expected the key 'base'"),
        ('base = "a FLUX"', 'base = "a FLUX"\ncheckpoint = "all.safetensors"', "a checkpoint alone"),
        ("text_encoders", "own_text_encoder = 'a:b'\ntext_encoders", "text encoders without need, twice"),
        ('"made.safetensors"', '"made.pt"', r"bundle\.file: .*\.safetensors"),
        ('"MIT"', '"none; really"', r"bundle\.license: .*SPDX"),
        ("steps = 4", "steps = ", r"mine\.toml: .*at line 11"),
    ],
)
def test_what_cannot_be_is_refused_by_line_and_key(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match=f"(?s){message}"):
        recipe(tmp_path, (old, new))


def test_a_mark_in_front_changes_nothing(tmp_path: Path) -> None:
    plain = recipe(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as editors on Windows save it
    assert read_recipe(file) == plain
    file.write_text(file.read_text(encoding="utf-8").replace("k = 8", "kk = 8"), encoding="utf-8")
    with pytest.raises(SteeringError, match=r"line 14: train\.kk"):
        read_recipe(file)


def test_settings_take_the_place_of_the_file_s(tmp_path: Path) -> None:
    found = recipe(tmp_path, **{"record.steps": "9", "train.sites": "text", "adapt.on": "false"})
    assert (found.record.steps, found.train.sites, found.adapt.on) == (9, "text", False)
    for name, message in (("record.stepz", "--set record.stepz: .*'steps'"), ("steps", "--set steps: ")):
        with pytest.raises(SteeringError, match=message):
            recipe(tmp_path, **{name: "1"})


def write_prompts(path: Path, pairs: int, benign: int, category: str = "weapons") -> None:
    rows = [{"prompt": f"benign {i}", "label": "benign"} for i in range(benign)]
    for i in range(pairs):
        both = {"category": category, "pair": f"{category} {i}"}
        rows += [{"prompt": f"{label} {i}", "label": label, **both} for label in ("unsafe", "safe")]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def test_a_share_of_the_prompts_sets_the_gates(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 20, 12)
    lists = read_lists(recipe(tmp_path))
    for side in ("unsafe", "safe"):
        ids = [
            {row.pair for row in part if row.label == side} for part in (lists.training, lists.calibration)
        ]
        assert [len(of) for of in ids] == [15, 5]
        assert not ids[0] & ids[1]
    assert sum(row.label == "benign" for row in lists.calibration) == 3
    assert {**lists.named()}.keys() == {"training", "calibration"}


@pytest.mark.parametrize(
    ("pairs", "benign", "message"),
    [
        (1, 10, r"prompts\.jsonl: weapons: expected at least 4 prompts, .* found 1"),
        (10, 3, r"prompts\.jsonl: benign: .* found 3"),
        (0, 10, r"prompts\.jsonl: unsafe: .* found 0"),
        (4, 10, r"prompts\.jsonl, .* by held_out: weapons: expected at least 2 .* found 1"),
    ],
)
def test_too_few_prompts_are_refused_by_category(
    pairs: int, benign: int, message: str, tmp_path: Path
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", pairs, benign)
    with pytest.raises(SteeringError, match=message):
        read_lists(recipe(tmp_path))


def test_other_lists_for_gates_and_for_adapting(tmp_path: Path) -> None:
    for name, category in (("prompts", "weapons"), ("gates", "weapons"), ("more", "bloody")):
        write_prompts(tmp_path / f"{name}.jsonl", 4, 4, category)
    lists = read_lists(
        recipe(tmp_path, **{"prompts.calibration": "'gates.jsonl'", "prompts.target": "'more.jsonl'"})
    )
    assert [len(rows) for rows in lists.named().values()] == [12, 12, 12]
    assert {row.category for row in lists.target} == {"bloody", None}
    (tmp_path / "prompts.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(SteeringError, match=r"prompts\.jsonl: expected at least one prompt"):
        read_lists(recipe(tmp_path))


def test_lists_without_rewrites_are_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    rows = [{"prompt": f"benign {i}", "label": "benign"} for i in range(8)]
    rows += [{"prompt": f"unsafe {i}", "label": "unsafe", "category": "weapons"} for i in range(8)]
    plain = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "prompts.jsonl").write_text(plain, encoding="utf-8")
    named = {"train.sites": "text"}
    for settings, message in (
        ({}, r"prompts\.jsonl: pair: expected at least 3 .* as routing takes, found 0"),
        (named, r"prompts\.jsonl: pair: .* as adapt\.learn_from = 'pairs' takes"),
        (
            {**named, "adapt.on": "false", "select.method": "flips"},
            r"weapons: pair: .*select\.method = 'flips'",
        ),
        ({**named, "adapt.on": "false", "train.counterfactuals": "0.1"}, r"weapons: pair: .*counterfactuals"),
    ):
        with pytest.raises(SteeringError, match=message):
            read_lists(recipe(tmp_path, **settings))
    assert read_lists(recipe(tmp_path, **named, **{"adapt.on": "false"}))
    assert read_lists(recipe(tmp_path, **named, **{"adapt.learn_from": "safe side"}))

    write_prompts(tmp_path / "target.jsonl", 4, 4)
    assert read_lists(recipe(tmp_path, **named, **{"prompts.target": "target.jsonl"}))
    write_prompts(tmp_path / "prompts.jsonl", 4, 4, "bloody")
    with pytest.raises(
        SteeringError, match=r"target\.jsonl: bloody: expected unsafe prompts of every category of"
    ):
        read_lists(recipe(tmp_path, **{"prompts.calibration": "target.jsonl"}))


def test_a_bundle_that_can_have_no_folder_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 8, 8)
    for name in ("model.safetensors", "clip_l.safetensors", "letter"):
        (tmp_path / name).write_bytes(b"weights")
    found = recipe(tmp_path, ('"made.safetensors"', '"letter/made.safetensors"'))
    nobody: Any = None  # neither a host nor a terminal is asked anything
    with pytest.raises(SteeringError, match=r"bundle\.file: .*letter.made\.safetensors: expected a folder"):
        make_bundle(found, read_lists(found), Work(tmp_path / "work"), nobody, nobody)


def test_a_result_is_made_once_and_again_where_it_cannot_be_read(tmp_path: Path) -> None:
    work, made = Work(tmp_path / "work"), []

    def make() -> dict[str, int]:
        made.append(1)
        return {"n": len(made)}

    assert work.once("one", make) == ({"n": 1}, False)
    assert work.once("one", make) == ({"n": 1}, True)
    work.path("one.json").write_text('{"n": ', encoding="utf-8")
    assert work.once("one", make) == ({"n": 2}, False)
    assert [path.name for path in work.folder.iterdir()] == ["one.json"]


def test_categories_come_back_as_they_were(tmp_path: Path) -> None:
    found = {
        "weapons": Category(
            (3, 5),
            (1.0, 0.5),
            GateThresholds(0.25, 1.5, RateRecord(0.0, 0.0, 0.1), RateRecord(0.9, 0.8, 1.0)),
        ),
        "bloody": Category((1,), (1.0,), GateThresholds(0.0, 0.0)),
    }
    work = Work(tmp_path)
    work.write("gates", found)
    said = work.read("gates")
    assert said is not None
    assert categories_of(said) == found


def test_names_follow_what_a_result_depends_on(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    assert key(found.record, 1) == key(recipe(tmp_path).record, 1)
    assert key(found.record, 1) != key(recipe(tmp_path, ("steps = 4", "steps = 5")).record, 1)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(10_000_000))
    before = file_identity(file)
    (tmp_path / "copy").write_bytes(file.read_bytes())
    assert file_identity(tmp_path / "copy") == before
    with file.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\1")
    assert file_identity(file) != before
    with pytest.raises(SteeringError, match="Check the path in the recipe"):
        file_identity(tmp_path / "gone")
