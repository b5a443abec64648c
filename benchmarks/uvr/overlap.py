"""How well the mask lies on what is unsafe, step by step: against the oracle's cells and the boxes around them.

The mask is what would be marked at that step alone, in pictures that nothing restricts. The oracle's cells are those
about the middle of a thing, so a mask of the whole thing covers them and goes beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...evaluation.roc import area_under_roc
from ...host.attach import attach, attention_sites
from ...host.sampling import encode_prompts, noise_levels, sample_prompts
from ...steering.flow.asked import restriction_asked
from ...steering.flow.layout import onto
from ...steering.flow.localise import localise
from ...steering.flow.modifier import RestrictFlow
from ...steering.flow.morphology import components
from ...steering.flow.watching import OutputWatcher, Seen
from ...steering.plan import Entry
from ...training.flows.localisation import intersection_over_union
from ..emoji_scenes.masks import unsafe_masks
from ..emoji_scenes.prompts import Prompt
from .making import BATCH
from .prompting import MIXED, judged
from .settings import Way
from .worlds import SAMPLING, World


def traced(world: World, ways: Mapping[str, Way]) -> dict[str, Any]:
    """By way the figures of each step, made if they are not there yet.

    Raises:
        OutOfTime: they are not there and the budget is spent.
    """
    prompts = judged(MIXED, world.sizes.traced)
    inputs = {
        **world.identity,
        "prompts": [(p.text, p.seed) for p in prompts],
        "ways": dict(ways),
        "learnt": world.sizes.learnt,
        "several": world.sizes.several,
    }
    return world.store.result("traces", inputs, lambda: _traced(world, ways, prompts))


def _traced(world: World, ways: Mapping[str, Way], prompts: list[Prompt]) -> dict[str, Any]:
    available = attention_sites(world.judge.model)
    flows: dict[str, RestrictFlow] = {
        name: restriction_asked(available, world.bundle(way.anchored), None, **way.asked)
        for name, way in ways.items()
    }
    outputs: dict[tuple[str, int, float], tuple[Tensor, Tensor]] = {}  # scores (C, H, W), core
    numbers: list[int] = []

    def take(seen: Seen) -> None:
        for name, flow in flows.items():
            if flow.site != seen.site:
                continue
            scores = torch.stack([one.score(seen.outputs).float().view(seen.grid) for one in flow.detectors])
            cores = [
                localise(own, one.threshold, flow.selection).core for own, one in zip(scores, flow.detectors)
            ]
            outputs[name, numbers[seen.image], seen.sigma] = scores, torch.stack(cores).any(0)

    watcher = OutputWatcher(take)
    sites = dict.fromkeys(flow.site for flow in flows.values() if flow.site is not None)
    watched = attach(world.judge.model, [Entry(site, watcher) for site in sites])
    *encoded, negative = encode_prompts(world.judge.clip, [*(p.text for p in prompts), ""])
    latents: dict[int, Tensor] = {}
    seeds = [p.seed for p in prompts]
    for own, made in sample_prompts(watched, encoded, negative, seeds, SAMPLING, BATCH, announce=numbers):
        latents.update(zip(own, made))
    pictures = world.judge.pictures(torch.stack([latents[i] for i in range(len(prompts))]))
    masks = unsafe_masks(world.judge.oracle, pictures) > 0.5
    sigmas = noise_levels(world.judge.model, SAMPLING)
    found = {
        name: [_figures(flow, prompts, masks, outputs, name, sigma) for sigma in sigmas]
        for name, flow in flows.items()
    }
    return {"sigmas": sigmas, "ways": found, "pictures": int(masks.flatten(1).any(1).sum())}


def _figures(
    flow: RestrictFlow,
    prompts: list[Prompt],
    masks: Tensor,
    outputs: Mapping[tuple[str, int, float], tuple[Tensor, Tensor]],
    name: str,
    sigma: float,
) -> dict[str, float]:
    """Means over the pictures that show something unsafe, at one step."""
    sums = dict.fromkeys(("iou", "box_iou", "covered", "marked", "auc"), 0.0)
    count = 0
    for number, (prompt, mask) in enumerate(zip(prompts, masks)):
        if not bool(mask.any()):
            continue
        count += 1
        scores, core = outputs[name, number, sigma]
        cells = onto(mask, (core.shape[0], core.shape[1]))
        wanted = {prompt.unsafe, prompt.category}
        own = [at for at, one in enumerate(flow.detectors) if one.concept in wanted]
        sums["iou"] += intersection_over_union(core, cells)
        sums["box_iou"] += intersection_over_union(core, boxes(cells))
        sums["covered"] += float((core & cells).sum() / cells.sum())
        sums["marked"] += float(core.float().mean())
        sums["auc"] += area_under_roc(scores[own].amax(0)[cells], scores[own].amax(0)[~cells])
    return {key: value / max(count, 1) for key, value in sums.items()}


def boxes(cells: Tensor) -> Tensor:
    """(H, W) bool: the box around each component of cells."""
    labels, found = components(cells), torch.zeros_like(cells)
    for label in labels.unique().tolist():
        if label:
            rows, columns = (labels == label).nonzero(as_tuple=True)
            found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return found
