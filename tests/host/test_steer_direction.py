"""Steer Direction is its equations at every site, on the positive rows, in the steps of its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerdit.host.run import find_logs
from steerdit.steering import SteeringError
from steerdit.steering.directions import Weighting
from steerdit.steering.formats.bundle import Bundle
from steerdit.steering.formats.directions import GLOBAL, Direction

from ..unit.directions import by_loops
from .direction_bundles import NEVER, ROWS, direction_bundle, directions_at, steered_model
from .reference import Reference, relative
from .steered import repelled
from .synthetic import bundle as sae_bundle
from .tiny import CONTEXT, WIDTH, noise, prompt, sample, tiny

FAMILIES = ("flux", "sd3")
METHODS = {"project_out": "project", "add": "add", "clamp": "clamp"}
SITES = {
    "flux": ("text", "double.0.text", "double.1.image", "single.1.image"),
    "sd3": ("text", "joint.0.text", "joint.2.image"),
}


def a_bundle(folder: Path, family: str, sites: tuple[str, ...] | None = None, **more: Any) -> Bundle:
    widths = {site: (CONTEXT if site == "text" else WIDTH)[family] for site in sites or SITES[family]}
    return direction_bundle(folder, family, widths, **more)


@dataclass(frozen=True)
class DirectionEdit:
    """What the node should do, in the words of reference.py."""

    bundle: Bundle
    method: str = "project"
    strength: float = 1.5
    weighting: Weighting = Weighting.GATED
    keep_norm: bool = True

    def at(self, site: str, a: Tensor) -> Tensor:
        if site not in map(str, self.bundle.directions):
            return a
        directions = directions_at(self.bundle, site)
        return by_loops(directions, a[None], self.method, self.strength, self.weighting, self.keep_norm)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("operator", METHODS)
@pytest.mark.parametrize("weights", list(Weighting))
def test_a_steered_run_is_what_the_equations_say(
    family: str, operator: str, weights: Weighting, tmp_path: Path
) -> None:
    model, bundle = tiny(family, tmp_path), a_bundle(tmp_path, family)
    edit: Any = DirectionEdit(bundle, METHODS[operator], weighting=weights)
    steered = steered_model(model, bundle, operator=operator, weights=weights.value)
    found = sample(steered, prompt(family, 1), prompt(family, 2), cfg=3.0, steps=2)
    run = {"cfg": 3.0, "sampler": "euler", "steps": 2}
    expected = Reference(family, model, [edit]).sample(
        noise(), prompt(family, 1), prompt(family, 2), model, **run
    )
    assert relative(found, expected) < 1e-5
    assert relative(sample(model, prompt(family, 1), prompt(family, 2), cfg=3.0, steps=2), expected) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_it_acts_in_its_schedule_alone(family: str, tmp_path: Path) -> None:
    model, bundle = tiny(family, tmp_path), a_bundle(tmp_path, family)
    end = 0.4
    gap = (2.0, model.get_model_object("model_sampling").percent_to_sigma(end))
    edit: Any = DirectionEdit(bundle)
    found = sample(
        steered_model(model, bundle, end_percent=end), prompt(family, 1), prompt(family, 2), cfg=3.0
    )
    expected = Reference(family, model, [edit], gap).sample(
        noise(), prompt(family, 1), prompt(family, 2), model, cfg=3.0, sampler="euler"
    )
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("operator", METHODS)
@pytest.mark.parametrize("nothing", ["strength", "gates", "categories", "sites"])
def test_where_nothing_acts_no_bit_changes(family: str, operator: str, nothing: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "strength": {"strength": 0.0},
        "gates": {},
        "categories": {"categories": "none"},
        "sites": {"sites": "-all"},
    }[nothing]
    rows = {"rows": NEVER} if nothing == "gates" else {}
    model, prompts = tiny(family, tmp_path), (prompt(family, 1), prompt(family, 2))
    steered = steered_model(model, a_bundle(tmp_path, family, **rows), operator=operator, **changes)
    assert torch.equal(sample(steered, *prompts, cfg=3.0), sample(model, *prompts, cfg=3.0))


def test_directions_and_latents_act_one_after_the_other(tmp_path: Path) -> None:
    model, prompts = tiny("flux", tmp_path), (prompt("flux", 1), prompt("flux", 2))
    directed = steered_model(model, a_bundle(tmp_path, "flux"))
    both = repelled(directed, sae_bundle(tmp_path, "flux"))
    results = [sample(one, *prompts) for one in (model, directed, both)]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])
    assert torch.equal(sample(model, *prompts), results[0])


def test_the_report_says_how_far_pictures_point_to_the_unsafe(tmp_path: Path) -> None:
    model, bundle = tiny("flux", tmp_path), a_bundle(tmp_path, "flux")
    latent = sample(steered_model(model, bundle, strength=0.0), prompt("flux", 1), prompt("flux", 2))
    (((log, image), *_),) = find_logs(latent)
    assert log.categories() == ("weapons", "bloody")
    assert log.fired(image, "weapons")
    assert log.heat(image) is not None
    never = a_bundle(tmp_path, "flux", rows=NEVER)
    latent = sample(steered_model(model, never), prompt("flux", 1), prompt("flux", 2))
    (((log, image), *_),) = find_logs(latent)
    assert not log.fired(image)


def refusal(model: Any, bundle: Bundle, **changes: Any) -> str:
    with pytest.raises(SteeringError) as caught:
        steered_model(model, bundle, **changes)
    return str(caught.value)


def test_bundles_that_do_not_fit(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    assert "a bundle for the family flux" in refusal(model, a_bundle(tmp_path, "sd3"))
    wide = direction_bundle(tmp_path, "flux", {"text": CONTEXT["flux"] + 1})
    assert refusal(model, wide).startswith(f"site text: expected width {CONTEXT['flux']}")
    missing = direction_bundle(tmp_path, "flux", {"double.7.text": WIDTH["flux"]})
    assert "site double.7.text" in refusal(model, missing)
    assert "Use Repel or Blend" in refusal(model, sae_bundle(tmp_path, "flux"))
    with pytest.raises(SteeringError, match="Use Steer Direction or Steer Conditioning"):
        repelled(model, a_bundle(tmp_path, "flux"))


def test_choices_that_cannot_be(tmp_path: Path) -> None:
    model, bundle = tiny("flux", tmp_path), a_bundle(tmp_path, "flux")
    assert "weapons, bloody" in refusal(model, bundle, categories="alcohol")
    assert "double.1.image" in refusal(model, bundle, sites="double.3.*")
    assert "at least 0, found -1.0" in refusal(model, bundle, strength=-1.0)
    steered_model(model, bundle, operator="add", strength=-1.0)
    bare = a_bundle(tmp_path, "flux", rows=(Direction("weapons"), *ROWS[1:], Direction(GLOBAL, 1.0, 0.1)))
    assert "none for weapons" in refusal(model, bare)
    steered_model(model, bare, categories="global")
    steered_model(model, bare, weights="given")
