"""The nodes between a recording and a bundle, one after the other, on the world's generator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import folder_paths
import pytest
import torch

from steerdit.benchmarks.emoji_scenes import in_host
from steerdit.benchmarks.emoji_scenes.prompts import prompts
from steerdit.host.text import PromptEncoder
from steerdit.nodes.adapt import AdaptNode
from steerdit.nodes.browse import BrowseNode
from steerdit.nodes.calibrate import CalibrateNode
from steerdit.nodes.route import RouteNode
from steerdit.nodes.save import SaveSaeBundleNode
from steerdit.nodes.select import SelectNode
from steerdit.steering import Site, SteeringError
from steerdit.training.adaptation.terms import AdaptationConfig
from steerdit.training.dictionaries.result import Origin, TrainedSAE
from steerdit.training.recordings import PromptRow, Recording, Settings, samples_of
from steerdit.training.recordings.run import record

from .steered import repelled

SITE = Site.parse("double.1.text")
SITES = (Site.parse("text"), SITE, Site.parse("single.0.image"))
WEIGHTS = {"semantic": 0.25, "binding": 0.35, "stability": 0.25, "cost": 0.15}
SELECT = {
    "method": "score",
    "count": 8,
    "ratio": 1.5,
    "least": 0.01,
    "held_out": 0.3,
    "seed": 0,
    "device": "cpu",
}
ADAPT = {
    "learn_from": "pairs", "categories": "all", "rows": "selected", "method": "auto",
    **{f.name: f.default for f in dataclasses.fields(AdaptationConfig)}, "batch": 200, "device": "cpu",
}  # fmt: skip
CALIBRATE = {"thresholds": "quantiles", "quantile": 0.95, "margin": 1.0, "folds": 3}


class World(NamedTuple):
    model: Any
    clip: Any
    vae: Any
    recording: Recording
    sae: TrainedSAE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    model, clip = in_host.generator(), in_host.text_encoder()
    rows: list[PromptRow] = []
    for i, p in enumerate(prompts("unsafe", 10, 5)):
        category = ("first", "second")[i % 2]
        rows += [
            PromptRow(p.text, "unsafe", category, str(i)),
            PromptRow(p.rewrite, "safe", category, str(i)),
        ]
    rows += [PromptRow(text, "benign") for text in dict.fromkeys(p.text for p in prompts("benign", 8, 6))]
    settings = Settings(
        steps=4,
        cfg=1.0,
        height=128,
        width=128,
        buckets=(0.0, 0.5, 1.0),
        tokens_per_image=16,
        dtype="float32",
        batch=8,
    )
    folder = tmp_path_factory.mktemp("made") / "recording"
    with torch.inference_mode():
        recording = record(model, PromptEncoder(clip), samples_of(rows, (1,)), SITES, settings, folder)
        assert recording is not None
        return World(model, clip, in_host.LatentCodec(), recording, axes(recording))


def axes(recording: Recording) -> TrainedSAE:
    """A latent for each way along each axis of the site, as far as tokens lie from their mean."""
    tokens = recording.read(SITE).tokens
    width = tokens.shape[1]
    rows = torch.cat([torch.eye(width), -torch.eye(width)])
    return TrainedSAE(
        encoder=rows,
        encoder_bias=torch.zeros(2 * width),
        decoder=rows.clone(),
        decoder_bias=tokens.mean(0),
        threshold=tokens.std(0).repeat(2),
        input_scale=1.0,
        k=8,
        activation="jumprelu",
        fvu=0.5,
        l0=8.0,
        dead=0.0,
        origin=Origin(SITE, "flux", base="emoji", license="Apache-2.0"),
    )


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    models = {
        **folder_paths.folder_names_and_paths,
        "steering": ([str(tmp_path / "bundles")], {".safetensors"}),
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", models)
    return tmp_path


def test_sites_are_routed(world: World) -> None:
    sites, names, table, chart = RouteNode.execute(
        world.model,
        world.clip,
        world.recording,
        sites="all",
        operator="both",
        count=2,
        pairs=4,
        benign=2,
        **WEIGHTS,
    ).args
    assert len(sites) == 2
    assert set(sites) <= set(SITES)
    assert names == ", ".join(map(str, sites))
    assert len(table.splitlines()) == 7
    assert chart.ndim == 4
    assert chart.shape[-1] == 3
    assert 0 <= float(chart.min()) < float(chart.max()) <= 1
    # Without binding and cost nothing is sampled.
    free = {**WEIGHTS, "binding": 0.0, "cost": 0.0}
    _, _, table, _ = RouteNode.execute(
        world.model,
        world.clip,
        world.recording,
        sites="double.*",
        operator="repel",
        count=2,
        pairs=4,
        benign=2,
        **free,
    ).args
    assert len(table.splitlines()) == 2
    assert " - " in table


def test_from_a_recording_to_a_bundle_that_steers(world: World, output: Path) -> None:
    selection, table = SelectNode.execute(world.sae, world.recording, **SELECT).args
    assert set(selection.latents) == {"first", "second"}
    assert "precision" in table
    adapted, report = AdaptNode.execute(
        world.sae, world.recording, source=world.recording, selection=selection, **ADAPT
    ).args
    assert "closed form" in report
    assert adapted.adapted is not None
    assert torch.equal(adapted.encoder, world.sae.encoder)
    parts, gates = CalibrateNode.execute(adapted, selection, world.recording, **CALIBRATE).args
    assert len(parts) == 1
    assert "opens on" in gates
    saved, file = SaveSaeBundleNode.execute(parts, name="mine", base="", license="", replace=False).args
    assert file == "mine.safetensors"
    assert saved.path == output / "bundles" / file
    assert saved.entry(SITE).categories == parts[0].categories
    assert saved.header.license == "Apache-2.0"
    assert repelled(world.model, saved) is not world.model
    with pytest.raises(SteeringError, match="a new name"):
        SaveSaeBundleNode.execute(parts, name="mine", base="", license="", replace=False)
    again, _ = SaveSaeBundleNode.execute(parts, name="mine", base="other", license="MIT", replace=True).args
    assert (again.header.base.name, again.header.license) == ("other", "MIT")


def test_adapting_by_steps_can_be_cancelled_and_goes_on(world: World, output: Path) -> None:
    settings = {**ADAPT, "method": "steps", "steps": 30, "rows": "all"}
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        AdaptNode.execute(world.sae, world.recording, source=world.recording, **settings)
    adapted, report = AdaptNode.execute(world.sae, world.recording, source=world.recording, **settings).args
    assert "30 steps" in report
    assert adapted.adapted is not None
    assert len(list((output / "output" / "steerdit" / "adaptations").iterdir())) == 1


def test_latents_are_shown_in_the_pictures_where_they_fire(world: World) -> None:
    selection, _ = SelectNode.execute(world.sae, world.recording, **SELECT).args
    inputs = {"latents": "", "scenes": 3, "most": 2}
    grid, table = BrowseNode.execute(
        world.model, world.clip, world.vae, world.sae, world.recording, selection=selection, **inputs
    ).args
    assert grid.ndim == 4
    assert len(table.splitlines()) == 2
    assert grid.shape[1] > 2 * 128
    _, table = BrowseNode.execute(
        world.model, world.clip, world.vae, world.sae, world.recording, **{**inputs, "latents": "0-2, 5"}
    ).args
    assert [line.split()[1] for line in table.splitlines()] == ["0:", "1:", "2:", "5:"]
    for latents, message in (("", "latents to show"), ("x", "numbers and spans"), ("99999", "some of 0 to")):
        with pytest.raises(SteeringError, match=message):
            BrowseNode.execute(
                world.model,
                world.clip,
                world.vae,
                world.sae,
                world.recording,
                **{**inputs, "latents": latents},
            )


def test_a_selection_of_another_site_is_refused(world: World) -> None:
    selection, _ = SelectNode.execute(world.sae, world.recording, **SELECT).args
    other = dataclasses.replace(selection, site=SITES[0])
    with pytest.raises(SteeringError, match="selection"):
        CalibrateNode.execute(world.sae, other, world.recording, **CALIBRATE)
    with pytest.raises(SteeringError, match="selection"):
        AdaptNode.execute(world.sae, world.recording, source=world.recording, selection=other, **ADAPT)
