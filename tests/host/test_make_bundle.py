"""One command from a recipe to a bundle, on the world's generator: stopped, split and continued, it ends the same."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steerdit.__main__ import main
from steerdit.benchmarks.emoji_scenes import in_host
from steerdit.benchmarks.emoji_scenes.generator_sd3 import SD3Config
from steerdit.benchmarks.hosting.install import install
from steerdit.benchmarks.workflows.prompts import write
from steerdit.commands.make_bundle import Terminal
from steerdit.steering.formats.bundle import open_bundle, verify
from steerdit.steering.sites import Site
from steerdit.training.recipes import read_recipe
from steerdit.training.recipes.architectures import read_architecture
from steerdit.training.recipes.costs import token_plan
from steerdit.training.recipes.lists import read_lists
from steerdit.training.recordings.writer import shard_bytes

from .steered import repelled
from .test_world_sd3 import in_the_host, random

RECIPE = Path(__file__).resolve().parents[2] / "example_recipes" / "emoji-scenes.toml"
SITE = Site.parse("double.1.text")
SMALL = {
    "prompts.held_out": "0.5",
    "record.sites": "double.1.text, double.1.image", "record.steps": "2", "record.cfg": "1.0",
    "record.tokens_per_image": "8", "record.buckets": "1",
    "record.samples_per_shard": "16", "train.sites": "double.1.text", "train.steps": "60", "train.expansion": "2",
    "train.batch": "256", "train.rate": "0.003", "train.warmup": "5", "train.evaluate_every": "30",
    "train.log_every": "5", "select.ratio": "1.2", "select.count": "8", "gates.folds": "2",
    "gates.quantile": "0.8", "machine.threads": "1",
}  # fmt: skip


@pytest.fixture
def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command with small sizes: a name for the bundle and its work folder, and more arguments."""
    try:
        in_host.generator()
    except ValueError:
        pytest.skip("older hosts take every FLUX for one of 24 heads")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own process keeps its handlers
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write(tmp_path / "prompts.jsonl", 16, 7)

    def run(name: str, *more: str, **changes: str) -> tuple[int, str]:
        paths = {
            "prompts.file": str(tmp_path / "prompts.jsonl"),
            "bundle.file": str(tmp_path / f"{name}.safetensors"),
            "bundle.name": "small",
        }
        given = [
            part
            for key, value in {**SMALL, **paths, **changes}.items()
            if value  # else the recipe's own, or none
            for part in ("--set", f"{key}={value}")
        ]
        work = ["--work", str(tmp_path / f"{name}.work")]
        status = main(
            ["make-bundle", str(RECIPE), "--cpu", "--comfyui", str(install()), *work, *given, *more]
        )
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_a_recipe_becomes_a_bundle_that_steers(
    make: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said = make("whole")
    assert status == 0, said
    assert "whole already" not in said
    file = tmp_path / "whole.safetensors"
    bundle = open_bundle(file)
    verify(file)
    assert (bundle.name, list(bundle.sites)) == ("small", [SITE])
    assert bundle.header.base.name == "emoji-scenes-flux"
    assert bundle.entry(SITE).categories
    assert bundle.read_sae(SITE).decoder_adapted is not None
    assert repelled(in_host.generator(), bundle) is not None

    made = file.read_bytes(), file.stat().st_mtime_ns
    status, said = make("whole")
    assert (status, said.count("…")) == (0, 0), said
    assert (file.read_bytes(), file.stat().st_mtime_ns) == made

    # What was made of the same stages before is taken as it is; the bundle comes out the same.
    file.unlink()
    status, said = make("whole")
    assert status == 0
    assert [line for line in said.splitlines() if line.endswith("…")] == ["save whole.safetensors: …"]
    assert file.read_bytes() == made[0]

    # Another recipe does not replace it unless that is asked for, and makes only what it changes.
    status, said = make("whole", **{"select.count": "4"})
    assert status == 1
    assert "give --replace" in said
    assert file.read_bytes() == made[0]
    status, said = make("whole", "--replace", **{"select.count": "4"})
    assert status == 0, said
    assert "record training: whole already" in said
    assert f"train {SITE}: whole already" in said
    assert f"select {SITE}: …" in said
    assert file.read_bytes() != made[0]

    # Recorded in two parts, and stopped again and again, it ends with the same bytes.
    for part in ("0/2", "1/2"):
        status, said = make("other", "--shard", part)
        assert status == 0, said
        assert "is recorded" in said
    assert not (tmp_path / "other.safetensors").exists()
    stops = 0
    for patience in (1, 4, 1000):
        asked = 0

        def stopped(self: Terminal, patience: int = patience) -> bool:
            nonlocal asked
            asked += 1
            self.asked = self.asked or asked > patience
            return self.asked

        monkeypatch.setattr(Terminal, "stopped", stopped)
        status, said = make("other")
        assert not list(tmp_path.rglob("*.part*"))
        if status == 0:
            break
        assert status == 130, said
        assert "What is whole is kept" in said
        stops += 1
        assert not (tmp_path / "other.safetensors").exists()
    assert status == 0
    assert stops == 2
    assert (tmp_path / "other.safetensors").read_bytes() == made[0]


def test_sd3_is_recorded_routed_and_trained_alike(
    make: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    net = random(SD3Config())
    save_file(net.state_dict(), tmp_path / "sd3.safetensors")
    status, said = make(
        "of-sd3",
        **{
            "model.diffusion_model": str(tmp_path / "sd3.safetensors"), "model.base": "small-sd3",
            "record.sites": "joint.1.text, joint.1.image", "train.sites": "", "route.count": "1",
            "route.operator": "blend", "route.pairs": "8", "route.benign": "4",
        },
    )  # fmt: skip
    assert status == 0, said
    bundle = open_bundle(tmp_path / "of-sd3.safetensors")
    verify(bundle.path)
    assert (bundle.header.family, bundle.header.base.name) == ("sd3", "small-sd3")
    (site,) = bundle.sites
    assert str(site).startswith("joint.1.")
    assert bundle.entry(site).categories
    assert repelled(in_the_host(net, tmp_path), bundle) is not None


def test_the_plan_is_what_the_recording_takes(make: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, said = make("some", "--shard", "0/1", **{"record.sites": "single.1.image"})
    assert status == 1, said
    assert "double.1.text" in said  # the site to train at was not recorded, which is known only now
    changes = {"prompts.file": str(tmp_path / "prompts.jsonl"), "record.sites": "single.1.image"}
    recipe = read_recipe(RECIPE, {**SMALL, **changes})
    architecture = read_architecture(recipe.path(recipe.model.diffusion_model))
    plan = token_plan(recipe, read_lists(recipe).training, architecture)
    (folder,) = (tmp_path / "some.work").glob("recording-training-*")
    on_disk = sum(path.stat().st_size for path in folder.glob("shard-*"))
    said_size = sum(shard_bytes(rows, plan.manifest) for rows in plan.all_rows())
    assert 0 <= on_disk - said_size < 2000 * len(plan.all_rows())
    assert torch.is_inference_mode_enabled()
