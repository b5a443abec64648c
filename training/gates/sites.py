"""Calibrates the gates of a site's categories on a recording: from selected latents to what a bundle's header holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...steering.formats.header import Category
from ...steering.sites import Site
from ..contrasts.counterfactuals import cross
from ..contrasts.probe import fit_probe
from ..latents.codes import Dictionary, Encode, coded, heard, some_latents
from ..recordings import Recording
from ..recordings.categories import category_of, pairs_of
from ..recordings.held_out import units
from ..selection.choosing import require_fitting
from .thresholds import GateRule, calibrate, described, measure_scores, member_weights


def calibrate_site(
    sae: Dictionary,
    recording: Recording,
    site: Site,
    latents: Mapping[str, tuple[int, ...]],
    rule: GateRule = GateRule(),
    *,
    weights: Mapping[str, Sequence[float]] | None = None,
    at_crossing: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Category]:
    """The categories of a site, with their gates; a category without latents is left out.

    Use a recording of other prompts or seeds than those that the autoencoder was trained on and its latents were chosen
    by: a gate that is set on what was learnt is set too high.

    Args:
        weights: of each category's latents, as weights.py fits them; None is 1 for each.
        at_crossing: thresholds where counterfactual tokens cross the boundary of a probe, instead of by quantiles.
        progress: hears how many tokens were read since.

    Raises:
        SteeringError: the recording lacks the site, or a category's unsafe prompts, or benign ones.
    """
    require_fitting(sae, recording, site)
    chosen = {name: of for name, of in latents.items() if of}
    union = sorted({latent for of in chosen.values() for latent in of})
    if not union:
        return {}
    encode = some_latents(sae, union)
    samples = recording.manifest.samples
    kind = [category_of(sample) for sample in samples]
    benign = torch.tensor([name is None for name in kind])
    own = {name: tuple(weights[name]) if weights else (1.0,) * len(of) for name, of in chosen.items()}
    columns = {name: member_weights(union, of, own[name]) for name, of in chosen.items()}
    stream = coded(heard(recording.shards(site), progress), encode, batch=8192)
    scores = measure_scores(stream, columns, benign, recording.count(site), rule)
    belongs = units(samples)
    found: dict[str, Category] = {}
    for name, of in chosen.items():
        crossing = _crossing_scores(recording, site, name, encode, columns[name]) if at_crossing else None
        unsafe = torch.tensor([i for i, other in enumerate(kind) if other == name], dtype=torch.long)
        gate = calibrate(scores, name, unsafe, benign.nonzero()[:, 0], belongs, rule, crossing)
        found[name] = described(of, gate, own[name])
    return found


def _crossing_scores(
    recording: Recording, site: Site, category: str, encode: Encode, weights: Tensor
) -> Tensor:
    """Scores (n) of the tokens of a category's pairs where they cross to the safe side."""
    pairs = pairs_of(recording, site, category)
    crossings = cross(fit_probe(pairs.unsafe, pairs.safe), pairs.unsafe, pairs.safe)
    points = crossings.points[crossings.flipped & (crossings.size > 0)]
    return (
        torch.cat([encode(part).cpu() @ weights for part in points.split(8192)])
        if len(points)
        else torch.empty(0)
    )
