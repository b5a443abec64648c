"""Chooses the latents of a trained autoencoder that stand for each risk category, and judges them on held-out prompts.

Two selectors: SAeUron's score per noise level (scores.py), and the latents that flip inside the minimal counterfactual
segment (contrasts/counterfactuals.py). Both choose on one part of the prompts and are judged on the other, pairs kept
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.sites import Site
from ..contrasts import counterfactuals as cat
from ..contrasts.probe import fit_probe
from ..contrasts.separation import Comparison, compare
from ..latents.codes import Dictionary, coded, heard, some_latents
from ..latents.maxima import Maxima
from ..recordings import Recording, Sample
from ..recordings.categories import category_of, pairs_of
from ..recordings.held_out import split
from .quality import Quality, qualities
from .scores import measure_activity, select

METHODS = ("score", "flips")


@dataclass(frozen=True)
class SelectionRule:
    """How latents are chosen."""

    method: str = "score"
    """One of METHODS."""
    count: int = 16
    """At most so many of a category, or of each group in it."""
    ratio: float = 4.0
    """score: the mean on unsafe tokens is above so many times that on others."""
    least: float = 0.05
    """flips: the latent falls silent in at least this share of the pairs."""
    held_out: float = 0.25
    """Share of the prompts that latents are judged on."""
    seed: int = 0
    """Of that division."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SteeringError(
                "selection: method",
                expected=f"one of {', '.join(METHODS)}",
                found=repr(self.method),
                remedy="Choose one.",
            )


@dataclass(frozen=True)
class Selection:
    """The latents of one autoencoder that stand for risks."""

    site: Site
    latents: Mapping[str, tuple[int, ...]]
    """By category, best first; a category may have none."""
    judged: Mapping[str, tuple[Quality, ...]]
    """Each latent on held-out prompts."""
    directions: Mapping[str, Comparison] = dataclasses.field(default_factory=dict[str, Comparison])
    """flips: the counterfactual direction beside the plain difference in means."""
    weights: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict[str, tuple[float, ...]])
    """By category, what each of its latents weighs in a gate (gates/weights.py); empty: all the same."""

    @property
    def union(self) -> tuple[int, ...]:
        """All of them, each once, in rising order."""
        return tuple(sorted({latent for of in self.latents.values() for latent in of}))

    def table(self) -> str:
        """For people: each latent with its precision and recall on held-out prompts."""
        lines: list[str] = []
        for category, latents in self.latents.items():
            lines.append(f"{self.site} {category}: {len(latents)} latents")
            for it in self.judged[category]:
                p, r, f = it.precision, it.recall, it.false_positive
                lines.append(
                    f"  {it.latent:>6}  precision {p.value:.2f} ({p.low:.2f} to {p.high:.2f})  "
                    f"recall {r.value:.2f} ({r.low:.2f} to {r.high:.2f})  fires on {f.value:.1%} of others"
                )
            if category in self.directions:
                d = self.directions[category]
                lines.append(
                    f"  direction: area {d.plain.value:.3f} plain, {d.weighted.value:.3f} weighted, difference "
                    f"{d.difference.value:+.3f} ({d.difference.low:+.3f} to {d.difference.high:+.3f})"
                )
        return "\n".join(lines)


def select_latents(
    sae: Dictionary,
    recording: Recording,
    site: Site,
    rule: SelectionRule = SelectionRule(),
    group: Callable[[Sample], str] = lambda sample: "",
    progress: Callable[[int], None] | None = None,
) -> Selection:
    """The latents of every category of a recording.

    Args:
        group: of an unsafe sample: each group of a category has its own latents; by default there is one.
        progress: hears how many tokens were read since; all are read twice, and once where latents flip.

    Raises:
        SteeringError: the recording lacks the site, unsafe prompts, other prompts, or enough of either.
    """
    samples = recording.manifest.samples
    require_fitting(sae, recording, site)
    fit, held = split(samples, rule.held_out, rule.seed)
    fit_set, held_set = set(fit.tolist()), set(held.tolist())
    groups = {i: (name, group(s)) for i, s in enumerate(samples) if (name := category_of(s)) is not None}
    names = tuple(dict.fromkeys(name for name, _ in groups.values()))
    if not names:
        raise SteeringError(
            f"{recording.folder}: samples",
            expected="unsafe prompts",
            found="none",
            remedy="Record some, with their category.",
        )
    chosen: dict[str, tuple[int, ...]] = {}
    directions: dict[str, Comparison] = {}
    if rule.method == "score":
        inside = {i: of for i, of in groups.items() if i in fit_set}
        chosen = _by_score(sae, recording, site, rule, names, inside, fit_set, progress)
    else:
        for name in names:
            chosen[name], found = _by_flips(sae, recording, site, rule, name, fit_set, held_set)
            if found is not None:
                directions[name] = found
    return Selection(site, chosen, _judged(sae, recording, site, chosen, held, progress), directions)


def require_fitting(sae: Dictionary, recording: Recording, site: Site) -> None:
    """A SteeringError unless the recording is of the dictionary's model, and has the site at its width."""
    origin, model = getattr(sae, "origin", None), recording.manifest.model
    if origin is not None and (
        origin.family != model.family or (origin.model and origin.model != model.digest)
    ):
        raise SteeringError(
            f"{recording.folder}: model",
            expected=f"a recording of the {origin.family} model that the autoencoder was trained on "
            f"({origin.model[:12] or 'not said'}…)",
            found=f"one of another {model.family} model ({model.digest[:12]}…)",
            remedy="Choose a recording of that very model with its patches, or train on this one.",
        )
    recording.count(site)
    if recording.sites[site] != sae.encoder.shape[1]:
        raise SteeringError(
            f"{recording.folder}: site {site}",
            expected=f"width {sae.encoder.shape[1]}, as the autoencoder has",
            found=f"{recording.sites[site]}",
            remedy="Choose a recording of the model and the site that it was trained on.",
        )


def _by_score(
    sae: Dictionary,
    recording: Recording,
    site: Site,
    rule: SelectionRule,
    names: Sequence[str],
    groups: Mapping[int, tuple[str, str]],
    fit: set[int],
    progress: Callable[[int], None] | None,
) -> dict[str, tuple[int, ...]]:
    concepts = list(dict.fromkeys(groups.values()))
    of_sample = torch.tensor(
        [
            concepts.index(groups[i]) if i in groups else len(concepts) if i in fit else -1
            for i in range(len(recording.manifest.samples))
        ]
    )
    stream = coded(heard(recording.shards(site), progress), sae.encode)
    buckets = len(recording.manifest.settings.buckets) - 1
    labels = [f"{name} {group}".strip() for name, group in concepts]
    activity = measure_activity(
        stream, [*labels, "benign"], of_sample, buckets, recording.bucket, len(sae.encoder)
    )
    found: dict[str, list[int]] = {name: [] for name in names}
    for (name, _), label in zip(concepts, labels):
        own = [at for at, other in enumerate(concepts) if other[0] == name]
        scores = activity.scores(label, apart=[labels[at] for at in own if labels[at] != label])
        found[name] += select(scores, rule.count, rule.ratio).latents
    return {name: tuple(dict.fromkeys(latents)) for name, latents in found.items()}


def _by_flips(
    sae: Dictionary,
    recording: Recording,
    site: Site,
    rule: SelectionRule,
    name: str,
    fit: set[int],
    held: set[int],
) -> tuple[tuple[int, ...], Comparison | None]:
    pairs = pairs_of(recording, site, name)
    inside, outside = (
        torch.tensor([i in of for i in pairs.sample_unsafe.tolist()], dtype=torch.bool) for of in (fit, held)
    )
    unsafe, safe = pairs.unsafe[inside], pairs.safe[inside]
    cat.require_pairs(unsafe, safe)
    probe = fit_probe(unsafe, safe)
    crossings = cat.cross(probe, unsafe, safe)
    flipped = cat.flips(sae.encode, unsafe, crossings)
    latents = tuple(cat.select_flips(flipped, rule.count, rule.least))
    if not bool(outside.any()):
        return latents, None
    found = cat.directions(unsafe, safe, crossings.weight)
    return latents, compare(found, pairs.unsafe[outside], pairs.safe[outside], pairs.sample_unsafe[outside])


def _judged(
    sae: Dictionary,
    recording: Recording,
    site: Site,
    chosen: Mapping[str, tuple[int, ...]],
    held: Tensor,
    progress: Callable[[int], None] | None,
) -> dict[str, tuple[Quality, ...]]:
    union = sorted({latent for of in chosen.values() for latent in of})
    if not union:
        return dict.fromkeys(chosen, ())
    samples = recording.manifest.samples
    maxima = Maxima(len(samples), len(union))
    for part in coded(heard(recording.shards(site), progress), some_latents(sae, union), batch=8192):
        maxima.add(part.z, part.sample)
    numbers = held.tolist()
    rest = torch.tensor([i for i in numbers if category_of(samples[i]) is None], dtype=torch.long)
    judged: dict[str, tuple[Quality, ...]] = {}
    for name, latents in chosen.items():
        own = torch.tensor([i for i in numbers if category_of(samples[i]) == name], dtype=torch.long)
        found = {it.latent: it for it in qualities(maxima, union, own, rest)}
        judged[name] = tuple(found[latent] for latent in latents)
    return judged
