"""The nodes and the command record the same, from a list of prompts to a folder that both find again."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import folder_paths
import pytest
from comfy.text_encoders.flux import FluxTokenizer
from comfy.text_encoders.sd3_clip import SD3Tokenizer

from steerdit.benchmarks.emoji_scenes import in_host
from steerdit.commands import hosted
from steerdit.commands import merge as merge_command
from steerdit.commands import record as command
from steerdit.host import headless
from steerdit.host.attach import diffusion_model
from steerdit.host.families import family_of
from steerdit.host.text import PromptEncoder
from steerdit.nodes.prompts import EXAMPLE, LoadPromptsNode, PromptListNode
from steerdit.nodes.record import LoadRecordingNode, RecordNode
from steerdit.steering.errors import SteeringError
from steerdit.steering.sites import Site
from steerdit.training.recordings import Recording
from steerdit.training.recordings.asked import buckets_named, sites_named

from .recorded import files
from .tiny import tiny

INPUTS: dict[str, Any] = {
    "name": "pictures",
    "sites": "text, double.1.*, single.1.image",
    "buckets": "2",
    "seeds": 2,
    "first_seed": 7,
    "steps": 3,
    "cfg": 1.0,
    "sampler": "euler",
    "scheduler": "simple",
    "width": 64,
    "height": 64,
    "tokens_per_image": 9,
    "cap": 0,
    "dtype": "float32",
    "batch": 2,
    "negative": "",
    "guidance": 0.0,
}


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    before = folder_paths.get_input_directory(), folder_paths.get_output_directory()
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    folder_paths.set_input_directory(str(tmp_path / "input"))
    folder_paths.set_output_directory(str(tmp_path / "output"))
    yield tmp_path
    folder_paths.set_input_directory(before[0])
    folder_paths.set_output_directory(before[1])


@pytest.fixture(scope="module")
def world() -> tuple[Any, Any]:
    try:
        return in_host.generator(), in_host.text_encoder()
    except ValueError:
        pytest.skip("older hosts take every FLUX for one of 24 heads")


def recorded(world: tuple[Any, Any], **changes: Any) -> Recording:
    prompts, _ = PromptListNode.execute(text=EXAMPLE).args
    inputs = {**INPUTS, **changes}
    return RecordNode.execute(model=world[0], clip=world[1], prompts=prompts, **inputs).args[0]


def test_a_recording_by_nodes_is_found_again(folders: Path, world: tuple[Any, Any]) -> None:
    made = recorded(world)
    assert made.folder == folders / "output" / "steerdit" / "recordings" / "pictures"
    found, summary = LoadRecordingNode.execute(name="pictures").args
    assert found.manifest == made.manifest
    assert "6 pictures: 2 unsafe, 2 safe, 2 benign" in summary
    assert LoadRecordingNode.validate_inputs(name="pictures") is True
    assert "pictures" in LoadRecordingNode.define_schema().inputs[0].options
    assert made.manifest.settings.buckets == (0.0, 0.5, 1.0)
    text = made.read(Site("text"))
    words = PromptEncoder(world[1])
    for number, sample in enumerate(made.manifest.samples):
        assert set(text.position[text.sample == number].tolist()) == set(words.places(sample.text))


def test_the_command_records_the_same(
    folders: Path, world: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recorded(world)
    (folders / "list.csv").write_text(EXAMPLE, encoding="utf-8")
    # The world's text encoder has no file that the host's loaders know.
    monkeypatch.setattr(hosted, "loaded", lambda arguments: world)
    monkeypatch.setenv(headless.VARIABLE, str(Path(comfy.sd.__file__).parents[1]))

    def run(*more: str) -> int:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        given = {
            "prompts": folders / "list.csv", "sites": INPUTS["sites"], "buckets": 2, "seeds": 2, "first-seed": 7,
            "steps": 3, "width": 64, "height": 64, "tokens-per-image": 9, "dtype": "float32", "batch": 2,
            "diffusion-model": "x", "text-encoder": "y",
        }  # fmt: skip
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return command.run(parser.parse_args([*words, "--cpu", *more]))

    out = folders / "out"
    assert run("--out", str(out), "--estimate") == 0
    assert not out.exists()
    assert "6 pictures in 1 shards" in capsys.readouterr().out
    assert run("--out", str(out)) == 0
    assert files(out) == files(made.folder)
    parts = [str(folders / f"part{index}") for index in (0, 1)]
    for index, part in enumerate(parts):
        assert run("--out", part, "--shard", f"{index}/2", "--samples-per-shard", "3") == 0
    assert "this part is done" in capsys.readouterr().out
    merging = argparse.Namespace(out=folders / "merged", parts=[Path(part) for part in parts])
    assert merge_command.run(merging) == 0
    assert run("--out", str(folders / "split"), "--samples-per-shard", "3") == 0
    assert files(folders / "merged") == files(folders / "split")
    assert run("--out", str(out), "--cfg", "2") == 1
    assert "settings.cfg" in capsys.readouterr().err
    assert merge_command.run(argparse.Namespace(out=folders / "m", parts=[folders])) == 1


def test_the_command_starts_the_host_and_says_what_is_missing(folders: Path) -> None:
    (folders / "list.csv").write_text(EXAMPLE, encoding="utf-8")
    host = str(Path(comfy.sd.__file__).parents[1])
    given = [
        "--comfyui",
        host,
        "--cpu",
        "--prompts",
        str(folders / "list.csv"),
        "--out",
        str(folders / "out"),
    ]

    def run(*more: str) -> str:
        words = [sys.executable, "-m", "steerdit", "record", *given, *more]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        return done.stderr

    assert "no-such.safetensors: expected a file" in run("--checkpoint", "no-such.safetensors")
    assert "a checkpoint alone, or a diffusion model and its text" in run()
    assert not (folders / "out").exists()


def test_lists_are_read_from_the_input_folder(folders: Path) -> None:
    (folders / "input" / "more").mkdir()
    (folders / "input" / "more" / "list.csv").write_text(EXAMPLE, encoding="utf-8")
    (folders / "input" / "bad.jsonl").write_text("[]", encoding="utf-8")
    (folders / "outside.csv").write_text(EXAMPLE, encoding="utf-8")
    assert LoadPromptsNode.define_schema().inputs[0].options == ["bad.jsonl", "more/list.csv"]
    rows, summary = LoadPromptsNode.execute(file="more/list.csv", label="benign").args
    assert [row.label for row in rows] == ["unsafe", "safe", "benign"]
    assert "unsafe (weapons): 1" in summary
    assert "line 1" in str(LoadPromptsNode.validate_inputs(file="bad.jsonl", label="benign"))
    assert "none of that name" in str(LoadPromptsNode.validate_inputs(file="../outside.csv", label="benign"))
    assert "line 2" in str(PromptListNode.validate_inputs(text="prompt,label\na,b\n"))
    before = LoadPromptsNode.fingerprint_inputs(file="more/list.csv", label="benign")
    (folders / "input" / "more" / "list.csv").write_text(EXAMPLE + "a dog,benign,,\n", encoding="utf-8")
    assert LoadPromptsNode.fingerprint_inputs(file="more/list.csv", label="benign") != before


@pytest.mark.parametrize("name", ["", "../elsewhere", "a/b", ".hidden", "/etc", "x" * 200])
def test_names_lead_nowhere_else(name: str, folders: Path) -> None:
    assert "name" in str(RecordNode.validate_inputs(name=name))
    assert "name" in str(LoadRecordingNode.validate_inputs(name=name))


def test_default_sites_are_the_papers_positions(tmp_path: Path) -> None:
    expected = {
        "flux": ["text", "double.1.text", "double.1.image", "single.1.image"],
        "sd3": ["text", "joint.1.text", "joint.1.image", "joint.2.image"],
    }
    for family, names in expected.items():
        model = tiny(family, tmp_path)
        dit = diffusion_model(model)
        kind = family_of(dit)
        assert [str(site) for site in sites_named(model, "default")] == names
        assert list(kind.sites(dit)) == sorted(kind.sites(dit))
        for site in kind.sites(dit):
            assert kind.width(dit, site) > 0
    assert Site("joint", 2, "text") not in sites_named(model, "all")
    with pytest.raises(SteeringError, match="none that matches"):
        sites_named(model, "double.*")
    with pytest.raises(SteeringError, match=r"site joint\.2\.text: .*the last block has no text output"):
        sites_named(model, "joint.*.image, joint.2.text")
    with pytest.raises(SteeringError, match=r"site joint\.7\.image: .*joint\.0 to joint\.2"):
        sites_named(model, "joint.7.image")


def test_buckets_are_a_number_or_edges(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    assert buckets_named(model, " 4") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert buckets_named(model, "0, 0.3,1") == (0.0, 0.3, 1.0)
    for wrong in ("", "0", "a", "1.5", "-1", "0.1,b"):
        with pytest.raises(SteeringError, match="rising edges in sigma"):
            buckets_named(model, wrong)


LONG = "a very long sentence about nothing at all " * 12


@pytest.mark.parametrize("text", ["", "a knife", "a (bloody:1.3) knife on a table", LONG])
def test_padding_is_told_from_words_by_the_hosts_tokenizers(text: str) -> None:
    for tokenizer, parts, padded in (
        (FluxTokenizer(), {}, 256),
        (SD3Tokenizer(), {"clip_l": object(), "clip_g": object(), "t5xxl": object()}, 77),
        (SD3Tokenizer(), {"clip_l": None, "clip_g": object(), "t5xxl": object()}, 77),
        (SD3Tokenizer(), {"clip_l": object(), "clip_g": object(), "t5xxl": None}, 0),
    ):
        clip = comfy.sd.CLIP(no_init=True)
        clip.tokenizer, clip.tokenizer_options = tokenizer, {}
        clip.cond_stage_model = SimpleNamespace(**parts)
        places = PromptEncoder(clip).places(text)
        tokens = clip.tokenize(text)
        words = {name: [token for chunk in chunks for token, _ in chunk] for name, chunks in tokens.items()}
        clips = len(words["g"]) if "g" in words else 0
        ours, marks = [place for place in places if place < clips], len(tokens.get("g", ()))
        if clips:
            # Padding of the second encoder is 0, which is no word of it; each chunk has a begin and an end.
            assert len(ours) == sum(token != 0 for token in words["g"])
            assert all(words["g"][place] != 0 for place in ours)
            assert len(ours) >= 2 * marks
        t5 = [place - clips for place in places if place >= clips]
        if padded:
            real = sum(token != 0 for token in words["t5xxl"])
            assert t5 == list(range(real))
            assert len(words["t5xxl"]) == max(real, padded)
        else:
            assert t5 == []


def test_text_encoders_of_other_models_are_refused() -> None:
    clip = comfy.sd.CLIP(no_init=True)
    clip.tokenizer = SimpleNamespace(tokenize_with_weights=lambda text, ids: {"l": [[]], "g": [[]]})
    clip.tokenizer_options = {}
    with pytest.raises(SteeringError, match="the text encoders of FLUX"):
        PromptEncoder(clip).places("a knife")
    with pytest.raises(SteeringError, match="--clip-type"):
        headless.load_text_encoders(["x"], "no")
