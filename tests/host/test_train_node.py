"""Train SAE: trains in a process of its own, shows how it goes, can be cancelled and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch

from steerdit.nodes.curve import curve
from steerdit.nodes.train import TrainSaeNode
from steerdit.steering.errors import SteeringError
from steerdit.steering.formats.bundle import open_bundle
from steerdit.steering.sites import Site
from steerdit.training.dictionaries import job
from steerdit.training.dictionaries.journal import Line
from steerdit.training.recordings import Recording

from ..unit.recordings import recording

SITE = "single.1.image"
SAID: dict[str, Any] = {
    "site": SITE, "activation": "batchtopk", "expansion": 3, "k": 3, "steps": 40, "batch": 64, "rate": 5e-3,
    "precision": "float32", "patience": 0, "seed": 0, "device": "cpu", "labels": "all", "base": "a FLUX",
    "more": "held_out = 0.2\nlog_every = 5\nevaluate_every = 20\ncheckpoint_every = 5",
}  # fmt: skip


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """A recording, and an output folder of this test's own."""
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return recording(tmp_path / "recording")


def test_the_node_trains_and_shows_how_it_goes(recorded: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int, Any]] = []

    def hook(value: int, total: int, preview: Any, node_id: Any = None) -> None:
        shown.append((value, total, preview))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    sae, picture, report = TrainSaeNode.execute(recorded, **SAID).result
    assert sae.origin.site == Site.parse(SITE)
    assert (sae.latents, sae.k, sae.steps) == (24, 3, 40)
    assert picture.shape == (1, 400, 640, 3)
    assert SITE in report
    assert str(sae.path) in report
    assert shown[-1][:2] == (40, 40)
    assert shown[-1][2][1].size == (640, 400)
    bundle = open_bundle(sae.path)
    assert bundle.header.base.name == "a FLUX"
    assert torch.equal(bundle.read_sae(Site.parse(SITE)).encoder, sae.encoder)
    before = sae.path.stat().st_mtime_ns
    again = TrainSaeNode.execute(recorded, **SAID).result[0]
    assert again.path.stat().st_mtime_ns == before
    assert torch.equal(again.decoder, sae.decoder)


def test_cancel_keeps_what_was_reached(recorded: Recording, tmp_path: Path) -> None:
    endless = {**SAID, "steps": 1_000_000}
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        TrainSaeNode.execute(recorded, **endless)
    (folder,) = (tmp_path / "output" / "steerdit" / "trainings").iterdir()
    assert (folder / job.FILE).exists()
    assert not (folder / job.RESULT).exists()
    assert not list(folder.glob("*.part"))


def test_the_site_is_the_named_one_or_a_ranked_one(recorded: Recording) -> None:
    from steerdit.nodes.train import chosen_site

    ranked = (Site.parse("double.1.text"), Site.parse(SITE))
    assert chosen_site(recorded, SITE, ranked, 1) == ranked[1]
    assert chosen_site(recorded, "", ranked, 1) == ranked[0]
    assert chosen_site(recorded, " ", ranked, 2) == ranked[1]
    with pytest.raises(SteeringError, match="place: expected 1 to 2"):
        chosen_site(recorded, "", ranked, 3)
    with pytest.raises(SteeringError, match="one of double"):
        chosen_site(recorded, "", (), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": "stepps = 3"}, "more: stepps: .*'steps'"),
        ({"more": "k ="}, "more: expected lines such as"),
        ({"labels": "unsafe, odd"}, "labels: expected all, or some of unsafe"),
    ],
)
def test_what_cannot_be_is_refused_in_the_queue(
    changes: dict[str, str], message: str, recorded: Recording
) -> None:
    import re

    answer = TrainSaeNode.validate_inputs(**changes)
    assert isinstance(answer, str)
    assert re.search(message, answer)
    with pytest.raises(SteeringError, match=message):
        TrainSaeNode.execute(recorded, **{**SAID, **changes})
    assert TrainSaeNode.validate_inputs(more=SAID["more"], labels="benign") is True
    assert TrainSaeNode.validate_inputs() is True


def test_a_site_that_was_not_recorded_or_a_damaged_shard_is_refused(recorded: Recording) -> None:
    with pytest.raises(SteeringError, match="not recorded"):
        TrainSaeNode.execute(recorded, **{**SAID, "site": "single.0.image"})
    shard = recorded.folder / recorded.manifest.shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(SteeringError, match="cut short or edited"):
        TrainSaeNode.execute(recorded, **SAID)


def test_the_node_says_all_that_execute_takes() -> None:
    schema = TrainSaeNode.GET_SCHEMA()
    assert [it.id for it in schema.inputs] == ["recording", *SAID, "sites", "place", "counterfactuals"]
    page = Path(__file__).parents[2] / "web" / "docs" / "SteerDiT_TrainSAE.md"
    text = page.read_text(encoding="utf-8")
    assert all(it.id in text for it in schema.inputs)


def test_a_curve_can_be_drawn_of_anything() -> None:
    assert curve([], 100, "nothing").shape == (1, 400, 640, 3)
    lines = [
        Line(step, 1.0, 10 ** (1 - step / 20), 3.0, 0.0, 1e-3, held=step % 40 == 0) for step in range(1, 100)
    ]
    drawn, less = curve(lines, 100, "a site"), curve(lines[:3], 100, "a site")
    assert not torch.equal(drawn, less)
    assert 0 <= float(drawn.min()) < float(drawn.max()) <= 1
