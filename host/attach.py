"""Puts a plan on a model: the way from a bundle, or from any entries, to a MODEL that samples steered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..steering.competition import TopK, rule_at
from ..steering.directions import DirectionSet
from ..steering.errors import SteeringError
from ..steering.flow.modifier import RestrictFlow
from ..steering.formats.bundle import Bundle
from ..steering.gates import Gate, GateKind
from ..steering.modifiers import Modifier
from ..steering.plan import Entry, Plan
from ..steering.sae import SelectedLatents
from ..steering.schedules import Schedule
from ..steering.sites import Site
from .families import family_of, uncompiled
from .run import sampler_run, sampling_run
from .weights import latents_patcher
from .wrapper import PLAN_KEY, steered_call

KEY = "steerdit"


def attach(model: Any, entries: Iterable[Entry], latents: Sequence[Any] = ()) -> Any:
    """A clone of a ModelPatcher that samples with these entries after those it already has.

    Args:
        model: the host's ModelPatcher; it stays as it is.
        latents: ModelPatchers of the weights that the entries use.

    Raises:
        SteeringError: the model's family is not supported, lacks a site, or has another width there.
    """
    entries = tuple(entries)
    dit = diffusion_model(model)
    family = family_of(dit)
    for entry in entries:
        width = family.width(dit, entry.site)
        wanted = getattr(entry.modifier, "width", None)
        if wanted not in (None, width):
            raise SteeringError(
                f"site {entry.site}",
                expected=f"width {width}, as this {family.name} model has",
                found=f"width {wanted}",
                remedy="Choose a bundle made for this model.",
            )
    clone = model.clone()
    if not entries:
        return clone
    options = clone.model_options["transformer_options"]
    options[PLAN_KEY] = options.get(PLAN_KEY, Plan()).adding(entries)
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, sampling_run),
        (WrappersMP.SAMPLER_SAMPLE, sampler_run),
        (WrappersMP.APPLY_MODEL, steered_call),
    ):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    there = list(clone.get_additional_models_with_key(KEY))
    for patcher in latents:
        if not any(patcher.is_clone(other) for other in there):
            there.append(patcher)
    clone.set_additional_models(KEY, there)
    return clone


def attach_bundle(
    model: Any,
    bundle: Bundle,
    modify: Callable[[SelectedLatents, Gate], Modifier],
    *,
    sites: Sequence[Site] | None = None,
    categories: Sequence[str] | None = None,
    gate: GateKind | str = GateKind.IMAGE,
    schedule: Schedule | None = None,
    whole: bool = False,
    topk: TopK | str = TopK.AUTO,
) -> Any:
    """A clone of a ModelPatcher that samples with a bundle's latents.

    Args:
        modify: makes the modifier of a site from its latents and its gate, for example
            `lambda latents, gate: Repel(latents, gate, strength=1.0)`.
        sites, categories: of the bundle; None means all. A site without latents of these categories is left
            alone.
        whole: load whole dictionaries, as the paper's Blend needs.
        topk: how the latents of TopK dictionaries fire; `exact` loads them whole.

    Raises:
        SteeringError: the bundle is not for this model, or has no thresholds where `topk` wants some.
    """
    _require_family(model, bundle)
    if not bundle.sites:
        raise SteeringError(
            str(bundle.path),
            expected="a bundle with sparse autoencoders",
            found="one with directions alone, so that nothing would be steered",
            remedy="Use Steer Direction or Steer Conditioning with it.",
        )
    sites = tuple(bundle.sites) if sites is None else sites
    if sites and not any(bundle.sites[site].categories for site in sites):
        raise SteeringError(
            str(bundle.path),
            expected=f"risk categories at {', '.join(map(str, sites))}",
            found="none, so that nothing would be steered",
            remedy="Choose other sites or another bundle.",
        )
    entries: list[Entry] = []
    patchers: list[Any] = []
    for site in sites:
        sae = bundle.sites[site]
        chosen = {name: it for name, it in sae.categories.items() if categories is None or name in categories}
        if not chosen:
            continue
        selected = sae.selected(tuple(chosen))
        competing = rule_at(bundle, site, topk).competing
        patcher = latents_patcher(bundle, site, selected, whole=whole or competing, topk=TopK(topk))
        modifier = modify(patcher.model, Gate.over(gate, chosen, selected))
        entries.append(Entry(site, modifier, schedule or Schedule()))
        patchers.append(patcher)
    return attach(model, entries, patchers)


def attach_directions(
    model: Any,
    bundle: Bundle,
    modify: Callable[[DirectionSet], Modifier],
    *,
    sites: Sequence[Site] | None = None,
    schedule: Schedule | None = None,
) -> Any:
    """A clone of a ModelPatcher that samples with a bundle's directions.

    Args:
        modify: makes the modifier of a site from its directions, for example
            `lambda directions: ProjectOut(directions, strength=1.0)`.
        sites: of the bundle's directions; None means all.

    Raises:
        SteeringError: the bundle is not for this model, or has no directions at a site.
    """
    _require_family(model, bundle)
    if not bundle.directions:
        raise SteeringError(
            str(bundle.path),
            expected="a bundle with directions",
            found="one with sparse autoencoders alone, so that nothing would be steered",
            remedy="Use Repel or Blend with it.",
        )
    sites = tuple(bundle.directions) if sites is None else sites
    entries = [
        Entry(site, modify(DirectionSet.of_bundle(bundle, site)), schedule or Schedule()) for site in sites
    ]
    return attach(model, entries)


def attach_flow(model: Any, restriction: RestrictFlow, bundle: Bundle | None = None) -> Any:
    """A clone of a ModelPatcher that samples with a restriction of what flows in its attention.

    Args:
        bundle: that its anchors are from.

    Raises:
        SteeringError: the bundle is not for this model, or the model lacks an attention site.
    """
    if bundle is not None:
        _require_family(model, bundle)
    sites = restriction.sites_among(attention_sites(model))
    both = restriction.startup, restriction.active
    schedule = Schedule(min(part.start_percent for part in both), max(part.end_percent for part in both))
    return attach(model, [Entry(site, restriction, schedule) for site in sites])


def attention_sites(model: Any) -> tuple[Site, ...]:
    """The attention of a ModelPatcher's blocks, in the order of a forward pass.

    Raises:
        SteeringError: the family is not supported.
    """
    dit = diffusion_model(model)
    return family_of(dit).attention_sites(dit)


def _require_family(model: Any, bundle: Bundle) -> None:
    family = family_of(diffusion_model(model))
    if bundle.family != family.name:
        raise SteeringError(
            str(bundle.path),
            expected=f"a bundle for the family {family.name}, as the MODEL is",
            found=f"a bundle for the family {bundle.family}",
            remedy="Choose a bundle made for this model, or the model that the bundle was made for.",
        )


def diffusion_model(model: Any) -> Any:
    """The diffusion model of a ModelPatcher, without the shell that compiling puts around it."""
    return uncompiled(model.get_model_object("diffusion_model"))
