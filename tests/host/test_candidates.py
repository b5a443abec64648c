"""Routing measures its terms on a real model: clean latents as the sampler ends with, costs of operators that act."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.host.sampling import noise_levels
from steerdit.steering import Site, SteeringError
from steerdit.steering.modifiers import Step
from steerdit.training.recordings import PromptRow, Recording, samples_of
from steerdit.training.recordings.resampling import Resampler
from steerdit.training.recordings.run import record
from steerdit.training.routing.candidates import measure, measure_costs
from steerdit.training.routing.one_latent import Contrast, dictionary, modifier
from steerdit.training.routing.ranking import Candidate, rank

from .recorded import SETTINGS, Said, sites_of
from .tiny import tiny

WORDS = ("knife", "gun", "axe", "bottle", "glass")
PROMPTS = [
    *(
        PromptRow(f"a {word} here", "unsafe", ("weapons", "alcohol")[i > 2], word)
        for i, word in enumerate(WORDS)
    ),
    *(PromptRow(f"a spoon {i}", "safe", ("weapons", "alcohol")[i > 2], word) for i, word in enumerate(WORDS)),
    PromptRow("a cat asleep", "benign"),
    PromptRow("a small dog", "benign"),
]
SITES = {"flux": "text, double.1.image, single.1.image", "sd3": "text, joint.1.image"}


def recorded(model: Any, family: str, folder: Path, prompts: list[PromptRow] = PROMPTS) -> Recording:
    settings = replace(SETTINGS, samples_per_shard=12, batch=6)
    sites = sites_of(model, family, SITES[family])
    recording = record(model, Said(family), samples_of(prompts, (1, 2)), sites, settings, folder)
    assert recording is not None
    return recording


def test_clean_latents_of_the_last_step_are_what_the_sampler_ends_with(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    resampler = Resampler(model, Said("flux"), recorded(model, "flux", tmp_path / "recording"))
    levels = resampler.recording.bucket(torch.tensor(noise_levels(model, resampler.sampling)))
    assert levels.tolist().count(0) == 1, "the last step alone is in the lowest bucket"
    numbers = [3, 0, 7]
    clean, seen = resampler.predicted(numbers)
    assert bool(seen.all())
    latents = resampler.latents(numbers)
    out = model.model.process_latent_out(clean[:, 0].view(latents.shape))
    torch.testing.assert_close(out, latents, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_every_term_of_every_candidate_is_measured(family: str, tmp_path: Path) -> None:
    model = tiny(family, tmp_path)
    recording = recorded(model, family, tmp_path / "recording")
    heard: list[tuple[int, int]] = []
    found = measure(
        Resampler(model, Said(family), recording), pairs=6, benign=2, progress=lambda *at: heard.append(at)
    )
    assert set(found) == {
        Candidate(site, operator) for site in recording.sites for operator in ("repel", "blend")
    }
    assert heard[-1][0] == heard[-1][1] == len(heard)
    for terms in found.values():
        assert all(value is not None and math.isfinite(value) for value in vars(terms).values())
        assert -1 <= terms.semantic <= 1
        assert 0 <= terms.binding <= 1
        assert terms.seconds >= 0
    assert max(terms.change for terms in found.values()) > 0
    assert len(rank(found)) == len(found)
    # The same recording gives the same terms, but for the time that they took.
    again = measure(Resampler(model, Said(family), recording), pairs=6, benign=2)
    assert {c: replace(t, seconds=0.0) for c, t in again.items()} == {
        c: replace(t, seconds=0.0) for c, t in found.items()
    }


def test_another_model_and_a_recording_without_benign_prompts_are_refused(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    recording = recorded(model, "flux", tmp_path / "recording", PROMPTS[:-2])
    with pytest.raises(SteeringError, match="the model that was recorded"):
        Resampler(tiny("flux", tmp_path, seed=1), Said("flux"), recording)
    with pytest.raises(SteeringError, match="benign prompts"):
        measure_costs(Resampler(model, Said("flux"), recording), {}, [])


def test_a_dictionary_of_one_latent_repels_the_contrast_and_blends_towards_the_rewrites() -> None:
    g = torch.Generator().manual_seed(0)
    rest = 0.1 * torch.randn(500, 6, generator=g)
    unsafe = 0.1 * torch.randn(300, 6, generator=g) + torch.tensor([3.0, 0, 0, 0, 0, 0])
    change = torch.tensor([-3.0, 2.0, 0, 0, 0, 0])
    latents, categories = dictionary({"weapons": Contrast(unsafe, change)}, rest)
    step = Step(Site.parse("text"), 1.0)
    for operator, goal in (("repel", rest.mean(0)), ("blend", unsafe.mean(0) + change)):
        act = replace(modifier(operator, latents, categories), keep_norm=False)  # type: ignore[type-var]
        moved = act(unsafe[None], step)[0]
        torch.testing.assert_close(moved.mean(0), goal, atol=0.05, rtol=0)
        changed = (act(rest[None], step)[0] != rest).any(1).float().mean()
        assert changed <= 0.011
    with pytest.raises(SteeringError, match="routing: rest"):
        dictionary({"weapons": Contrast(unsafe, None)}, rest[:0])
    with pytest.raises(SteeringError, match="weapons: expected unsafe tokens that differ"):
        dictionary({"weapons": Contrast(rest, None)}, rest)
