"""Steering Report says what fired, where, and lays it over the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.host.attach import attach
from steerdit.host.recording import Recorder
from steerdit.nodes.report import ReportNode
from steerdit.steering import Entry, Site, SteeringError

from .reference import Edit
from .steered import repelled
from .synthetic import NEVER, WEAPONS, bundle
from .tiny import GRID, noise, prompt, sample, tiny

PROMPTS = prompt("flux", 1), prompt("flux", 2)


def report(latent: torch.Tensor, **inputs: Any) -> Any:
    return ReportNode.execute(samples={"samples": latent}, **inputs).args


def test_the_heat_map_is_the_severity_of_each_patch(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    file = bundle(tmp_path, "flux", ("double.1.image",))
    recorder, site = Recorder(), Site.parse("double.1.image")
    sample(attach(model, [Entry(site, recorder)]), *PROMPTS)
    latent = sample(repelled(model, file, strength=0.0), *PROMPTS)

    scores: list[list[float]] = []
    edit = Edit(file)
    for record in recorder.records:
        codes = edit.codes(str(site), record.tokens.double())
        scores.append([sum(w * float(z[f]) for f, w in zip(WEAPONS.latents, WEAPONS.weights)) for z in codes])
    severity = [max(s / (s + WEAPONS.gate.image) for s in patch) for patch in zip(*scores)]
    expected = torch.tensor(severity).view(GRID)

    table, overlay, heat, fired, score = report(latent, category="weapons")
    assert heat.shape == (1, 16 * GRID[0], 16 * GRID[1])
    assert overlay.shape == (*heat.shape, 3)
    assert score == pytest.approx(max(severity), rel=1e-5)
    assert fired is (max(severity) > 0.5)
    coarse = torch.nn.functional.interpolate(expected[None, None], size=heat.shape[1:], mode="bilinear")[0, 0]
    assert torch.allclose(heat[0], coarse, atol=1e-5)
    row, column = divmod(int(expected.argmax()), GRID[1])
    strongest = max(
        (line for line in table.splitlines() if "weapons" in line), key=lambda line: float(line.split()[3])
    )
    assert f"patch {row},{column}" in strongest
    assert "bloody" not in table


def test_nothing_fired(tmp_path: Path) -> None:
    steered = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux", categories={"never": NEVER}))
    image = torch.rand(2, 40, 60, 3, generator=torch.Generator().manual_seed(0))
    _, overlay, heat, fired, score = report(sample(steered, *PROMPTS, start=noise(2)), image=image)
    assert fired is False
    assert score < 0.5
    assert heat.shape == (2, 40, 60)
    assert overlay.shape == (2, 40, 60, 3)


def test_the_picture_count_must_match(tmp_path: Path) -> None:
    latent = sample(repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux")), *PROMPTS)
    with pytest.raises(SteeringError, match="1 pictures, as many as the LATENT has, found 3"):
        report(latent, image=torch.zeros(3, 8, 8, 3))


def test_an_unknown_latent_and_an_unknown_category(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    with pytest.raises(SteeringError, match=r"LATENT.*change the seed"):
        report(sample(model, *PROMPTS) + 1)
    latent = sample(repelled(model, bundle(tmp_path, "flux")), *PROMPTS)
    with pytest.raises(SteeringError, match="weapons, bloody"):
        report(latent, category="weapon")


def test_a_run_in_which_steering_was_never_active(tmp_path: Path) -> None:
    steered = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"), start_percent=0.05, end_percent=0.06)
    table, _, heat, fired, score = report(sample(steered, *PROMPTS))
    assert "no steering was active" in table
    assert (float(heat.max()), fired, score) == (0.0, False, 0.0)


@pytest.mark.parametrize("order", [1, -1])
def test_the_heat_map_shows_whole_pictures_and_not_the_crop_of_an_area(order: int, tmp_path: Path) -> None:
    steered = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"))
    text, extra = prompt("flux", 4)[0]
    positive = [*PROMPTS[0], [text, {**extra, "area": (4, 6, 2, 4), "strength": 1.0}]][::order]
    table, _, heat, _, _ = report(sample(steered, positive, PROMPTS[1], cfg=3.0))
    assert heat.shape == (1, 16 * GRID[0], 16 * GRID[1])
    assert "patch" in table


def test_a_batch_of_pictures_steered_at_different_sites(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    latents = [
        sample(repelled(model, bundle(tmp_path, "flux", (site,))), *PROMPTS)
        for site in ("text", "double.1.image")
    ]
    _, _, heat, _, _ = report(torch.cat(latents))
    assert heat.shape == (2, 16 * GRID[0], 16 * GRID[1])
    assert not heat[0].any()


@pytest.mark.parametrize("order", [1, -1])
def test_runs_that_make_the_same_picture_are_told_apart_and_all_count(order: int, tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    watching = repelled(model, bundle(tmp_path, "flux"), strength=0.0)
    closed = repelled(model, bundle(tmp_path, "flux", categories={"never": NEVER}, seed=12), gate="image")
    first, second = [sample(one, *PROMPTS) for one in (watching, closed)[::order]]
    assert torch.equal(first, second)
    table, _, heat, fired, _ = report(first)
    assert fired is True
    assert float(heat.max()) > 0.5
    assert "2 kinds of run" in table
    assert report(first, category="never")[3] is False
    assert report(first, category="weapons")[3] is True


def test_a_run_that_is_repeated_is_reported_once(tmp_path: Path) -> None:
    steered = repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux"))
    table = report(sample(steered, *PROMPTS))[0]
    assert report(sample(steered, *PROMPTS))[0] == table


def test_an_empty_batch(tmp_path: Path) -> None:
    latent = sample(repelled(tiny("flux", tmp_path), bundle(tmp_path, "flux")), *PROMPTS)
    with pytest.raises(SteeringError, match="at least one picture"):
        report(latent[:0])
