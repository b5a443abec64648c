"""A bundle that does not fit the model is refused when the node runs, in words that say what to do."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.steering import Site, SteeringError

from .steered import blended, repelled
from .synthetic import WEAPONS, bundle
from .tiny import prompt, sample, tiny


def refusal(act: Any) -> str:
    with pytest.raises(SteeringError) as caught:
        act()
    return str(caught.value)


def test_another_family(tmp_path: Path) -> None:
    message = refusal(lambda: repelled(tiny("flux", tmp_path), bundle(tmp_path, "sd3")))
    assert "sd3-jumprelu" in message
    assert "expected a bundle for the family flux" in message
    assert "found a bundle for the family sd3" in message


@pytest.mark.parametrize("family", ["flux", "sd3"])
@pytest.mark.parametrize("site", ["text", "block"])
def test_another_width(family: str, site: str, tmp_path: Path) -> None:
    name = "text" if site == "text" else {"flux": "single.1.image", "sd3": "joint.1.image"}[family]
    message = refusal(lambda: repelled(tiny(family, tmp_path), bundle(tmp_path, family, (name,), width=64)))
    assert re.match(rf"site {re.escape(name)}: expected width \d+, .*found width 64", message)


@pytest.mark.parametrize(
    ("family", "site", "there"),
    [
        ("flux", "double.2.image", "double.0 to double.1"),
        ("flux", "single.37.image", "single.0 to single.1"),
        ("sd3", "joint.36.image", "joint.0 to joint.2"),
        ("sd3", "joint.1.reference", "text or image"),
        ("sd3", "joint.2.text", "the last block has no text output"),
    ],
)
def test_a_place_that_the_model_lacks(family: str, site: str, there: str, tmp_path: Path) -> None:
    message = refusal(lambda: repelled(tiny(family, tmp_path), bundle(tmp_path, family, (site,))))
    assert f"site {site}" in message
    assert there in message


def test_a_subclass_of_a_known_model(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    dit = model.model.diffusion_model

    class Quantised(type(dit)):
        """As packs with their own forward pass make them."""

    dit.__class__ = Quantised
    message = refusal(lambda: repelled(model, bundle(tmp_path, "flux")))
    assert "Quantised" in message
    assert "comfy.ldm.flux.model.Flux" in message


def test_a_flux2_model(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    model.model.diffusion_model.params.global_modulation = True
    assert "FLUX.2" in refusal(lambda: repelled(model, bundle(tmp_path, "flux")))


@pytest.mark.parametrize(
    ("change", "name"),
    [({"yak_mlp": True}, "Ovis"), ({"txt_norm": True}, "Ovis"), ({"vec_in_dim": None}, "LongCat")],
)
def test_other_models_of_the_same_class(change: dict[str, object], name: str, tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    for field, value in change.items():
        setattr(model.model.diffusion_model.params, field, value)  # older hosts lack some
    assert name in refusal(lambda: repelled(model, bundle(tmp_path, "flux")))


def test_an_unknown_model(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path).clone()
    model.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    assert "torch.nn.modules.linear.Linear" in refusal(lambda: repelled(model, bundle(tmp_path, "flux")))


def test_blend_without_an_adapted_decoder(tmp_path: Path) -> None:
    file = bundle(tmp_path, "flux", adapted=False)
    message = refusal(lambda: blended(tiny("flux", tmp_path), file))
    assert f"{file.path}: text: expected a decoder adapted" in message
    repelled(tiny("flux", tmp_path), file)


def test_unknown_categories_and_sites(tmp_path: Path) -> None:
    model, file = tiny("flux", tmp_path), bundle(tmp_path, "flux")
    assert "weapons, bloody" in refusal(lambda: repelled(model, file, categories="weapon"))
    assert "double.1.image" in refusal(lambda: repelled(model, file, sites="double.7.image"))


def test_a_category_that_the_chosen_sites_do_not_have(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    weapons = bundle(tmp_path, "flux", ("text",), categories={"weapons": WEAPONS})
    image = bundle(tmp_path, "flux", ("double.1.image", "text"), categories={})
    sites = {
        **image.sites,
        Site("text"): dataclasses.replace(image.sites[Site("text")], categories={"weapons": WEAPONS}),
    }
    mixed = dataclasses.replace(image, header=dataclasses.replace(image.header, sites=sites))
    repelled(model, mixed)
    assert "weapons" in refusal(lambda: repelled(model, weapons, categories="bloody"))
    assert "expected one of nothing" in refusal(
        lambda: repelled(model, mixed, categories="weapons", sites="double.1.image")
    )


def test_a_bundle_without_categories(tmp_path: Path) -> None:
    file = bundle(tmp_path, "flux", categories={})
    message = refusal(lambda: repelled(tiny("flux", tmp_path), file))
    assert f"{file.path}: expected risk categories at text, double.0.text" in message


@pytest.mark.parametrize("node", [repelled, blended])
@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_a_strength_that_only_a_link_can_bring(node: Any, strength: float, tmp_path: Path) -> None:
    message = refusal(lambda: node(tiny("flux", tmp_path), bundle(tmp_path, "flux"), strength=strength))
    assert f"strength: expected a finite number, at least 0, found {strength}" in message


def test_the_text_site_of_sd3_needs_t5_tokens(tmp_path: Path) -> None:
    steered = repelled(tiny("sd3", tmp_path), bundle(tmp_path, "sd3"))
    assert "T5" in refusal(lambda: sample(steered, prompt("sd3", 1, 77), prompt("sd3", 2)))


@pytest.mark.parametrize("site", ["double.1.image", "single.0.image"])
@pytest.mark.parametrize("count", [20, 27])
def test_tokens_that_another_pack_took_away_or_put_before_ours(site: str, count: int, tmp_path: Path) -> None:
    model = tiny("flux", tmp_path).clone()

    def others(inputs: dict[str, Any]) -> dict[str, Any]:
        changed = {name: inputs[name] for name in ("img", "img_ids")}
        few = count - 24
        for name, tokens in changed.items():
            changed[name] = tokens[:, :few] if few < 0 else torch.cat([tokens[:, :few], tokens], 1)
        return {**inputs, **changed}

    model.set_model_post_input_patch(others)
    steered = repelled(model, bundle(tmp_path, "flux", (site,)))
    message = refusal(lambda: sample(steered, prompt("flux", 1), prompt("flux", 2)))
    assert re.match(
        rf"site {re.escape(site)}: expected .* tokens, found {count + 7 * ('single' in site)}", message
    )
