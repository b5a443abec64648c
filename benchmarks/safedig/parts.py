"""The bundle of one site by a recipe: latents chosen, decoder adapted, gates calibrated; then the model it steers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ...host.attach import attach_bundle
from ...steering.formats.bundle import Bundle, open_bundle
from ...steering.formats.header import Category
from ...steering.gates import Gate
from ...steering.modifiers import Blend, Form, Gated, Repel
from ...steering.sae import SelectedLatents
from ...steering.sites import Site
from ...training.adaptation.domains import adapt_sae
from ...training.assembling import Part, origin_of, write_parts
from ...training.dictionaries.result import TrainedSAE
from ...training.gates.sites import calibrate_site
from ...training.gates.weights import gate_weights
from ...training.recordings import Recording
from ...training.selection.choosing import SelectionRule, select_latents
from .arms import STRENGTHS, Recipe, Use
from .dictionaries import trained
from .prompting import group_of
from .worlds import World

OPERATIONS: dict[str, type[Gated]] = {"repel": Repel, "blend": Blend}
LATENTS_OF_FLIPS = 240
"""Latents at most of a category, where each thing has none of its own: as many as five things have."""


def made_from(world: World, target: str, site: Site, recipe: Recipe) -> dict[str, Any]:
    """All that the bundle of a site depends on."""
    return {**world.identity, "target": target, "site": site, "recipe": recipe, "sizes": world.sizes.recorded}


def bundle_of(world: World, target: str, site: Site, recipe: Recipe) -> Bundle | None:
    """The bundle of a site; None where no latent is particular to any category.

    Raises:
        OutOfTime: something it needs is not finished and the budget is spent.
    """
    inputs = made_from(world, target, site, recipe)
    path = world.store.path("bundles", inputs, ".safetensors")

    def make() -> dict[str, Any]:
        read = _read(world, target, site, recipe.read)
        sae, latents, categories = read.sae, read.latents, read.categories
        figures = {
            "fvu": sae.fvu,
            "l0": sae.l0,
            "dead": sae.dead,
            "latents": {k: len(v) for k, v in latents.items()},
        }
        if not any(latents.values()):
            return {"file": None, **figures}
        adapted = _adapted(world, target, sae, latents, recipe)
        # The paper's forms decode everything, where half precision would add its own error.
        write_parts(path, [Part(adapted, categories)], half=False)
        gates = {
            name: {
                "false_positive": of.gate.false_positive and of.gate.false_positive.value,
                "recall": of.gate.recall and of.gate.recall.value,
            }
            for name, of in categories.items()
        }
        return {"file": path.name, **figures, "gates": gates}

    made = world.store.result("bundles", inputs, make)
    return None if made["file"] is None else open_bundle(path)


@dataclass(frozen=True)
class _Read:
    """What recipes have in common whose bundles read alike."""

    sae: TrainedSAE
    latents: Mapping[str, tuple[int, ...]]
    categories: Mapping[str, Category]
    """With their gates; empty without latents."""


@lru_cache(maxsize=32)  # of one rotation: ablations of the second decoder calibrate the same gates
def _read(world: World, target: str, site: Site, recipe: Recipe) -> _Read:
    sizes = world.sizes
    sae, learnt = _dictionary(world, target, site, recipe)
    latents = _chosen(world, sae, learnt, site, recipe)
    if not any(latents.values()):
        return _Read(sae, latents, {})
    weights = gate_weights(sae, learnt, site, latents, sizes.weights)
    categories = calibrate_site(
        sae,
        world.fresh(site),
        site,
        latents,
        sizes.gates,
        weights=weights,
        at_crossing=recipe.crossing,
    )
    return _Read(sae, latents, categories)


def _dictionary(world: World, target: str, site: Site, recipe: Recipe) -> tuple[TrainedSAE, Recording]:
    """The autoencoder, and the recording whose pairs choose its latents."""
    everything, source = world.whole(site), world.source(target, site)
    recording = everything if recipe.dictionary == "all" else source
    return trained(world, recording, site), source if recipe.chosen == "source" else everything


def _chosen(
    world: World, sae: TrainedSAE, recording: Recording, site: Site, recipe: Recipe
) -> dict[str, tuple[int, ...]]:
    sizes = world.sizes
    count = sizes.count if recipe.selector == "score" else LATENTS_OF_FLIPS
    rule = SelectionRule(recipe.selector, count, sizes.ratio)
    return dict(select_latents(sae, recording, site, rule, group_of).latents)


def _adapted(
    world: World, target: str, sae: TrainedSAE, latents: Mapping[str, Sequence[int]], recipe: Recipe
) -> TrainedSAE:
    """With its second decoder. Source pairs teach beside the target's: what Blend knew of them it should not forget."""
    config = world.sizes.adaptation if recipe.stability else replace(world.sizes.adaptation, stability=0.0)
    site = origin_of(sae).site
    everything, source = world.whole(site), world.source(target, site)
    if recipe.lesson == "pairs":
        learnt = source if recipe.adapted == "source" else everything
        union = sorted({latent for of in latents.values() for latent in of})
        return adapt_sae(sae, learnt, source, config, latents=union, acting=latents, method="closed form").sae
    return adapt_sae(sae, everything, source, config, lesson=recipe.lesson, categories=[target]).sae


def steered(world: World, target: str, sites: Sequence[Site], recipe: Recipe, use: Use) -> Any | None:
    """The model with the bundles of these sites; None where none of them has latents."""
    bundles = [bundle for site in sites if (bundle := bundle_of(world, target, site, recipe)) is not None]
    model = world.model
    # What Blend rewrites no longer fires as it did, so it comes first and Repel takes away what it has left.
    for operator in ("blend", "repel") if use.method == "both" else (use.method,):

        def modify(latents: SelectedLatents, gate: Gate, operator: str = operator) -> Gated:
            strength = STRENGTHS[use.form][operator]
            return OPERATIONS[operator](latents, gate, strength=strength, form=Form(use.form))

        for bundle in bundles:
            whole = operator == "blend" and use.form == "paper"
            model = attach_bundle(model, bundle, modify, gate=use.gate, whole=whole)
    return model if bundles else None
