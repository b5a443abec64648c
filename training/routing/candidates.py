"""Measures the terms of ranking.py for candidate sites and operators of a recorded model.

Everything but the cost comes from the recording, the prompts and the model's predicted clean latents; the cost comes
from sampling benign prompts with each operator at each site, over dictionaries of one latent (one_latent.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...host.attach import attach
from ...steering.errors import SteeringError
from ...steering.modifiers import Modifier
from ...steering.plan import Entry
from ...steering.sites import Site
from ..recordings import Recording
from ..recordings.resampling import Resampler
from .alignment import linear_cka, semantic_alignment, stability
from .one_latent import Contrast, dictionary, modifier
from .ranking import OPERATORS, PUBLISHED, Candidate, Terms, Weights
from .sample_means import (
    Cases,
    Differences,
    SampleMeans,
    by_pair,
    cases_of,
    pair_differences,
    sample_means,
    update_directions,
)

MOST_TOKENS = 20_000
"""Of a category, and of the rest, that a dictionary of one latent is made from."""


class Cost(NamedTuple):
    """What an operator does to the making of benign pictures."""

    seconds: float
    """More than without it, for a picture; at least 0."""
    change: float
    """Mean of ‖with − without‖ / ‖without‖ over the latents."""


def measure(
    resampler: Resampler,
    sites: Sequence[Site] | None = None,
    operators: Sequence[str] = OPERATORS,
    *,
    pairs: int = 32,
    benign: int = 8,
    weights: Weights = PUBLISHED,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Candidate, Terms]:
    """The terms of each candidate.

    Args:
        sites: of the recording; None is all.
        weights: terms that weigh nothing here and have to be sampled for (binding, cost) are not measured.
        pairs: at most so many pairs, with their seeds, are sampled for the predicted clean latents.
        benign: so many benign pictures are sampled without, and with each candidate.
        progress: hears (parts done, parts in all).

    Raises:
        SteeringError: the recording has no pairs, fewer than three, or no benign prompts; or a value is not finite.
    """
    recording = resampler.recording
    chosen = tuple(recording.sites) if sites is None else tuple(sites)
    cases = cases_of(recording.manifest.samples)
    total = 1 + len(chosen) + (1 + len(chosen) * len(operators) if weights.cost else 0)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    sampled = _spread((cases.partner >= 0).nonzero()[:, 0].tolist(), pairs)
    clean = _clean_differences(resampler, sampled, cases) if weights.binding and sampled else None
    step()
    text = _text_differences(resampler, cases)
    found: dict[Candidate, Terms] = {}
    modifiers: dict[Candidate, Modifier] = {}
    for site in chosen:
        means = site_means(recording, site)
        at, differences = pair_differences(means, cases)
        ids, by_id = by_pair(differences, cases.pair[at])
        semantic = semantic_alignment(by_id, text[ids])
        binding = None
        if clean is not None:
            place = {number: row for row, number in enumerate(at.tolist())}
            rows = torch.tensor([place[number] for number in sampled])
            both = differences.seen[rows] & clean.seen
            binding = linear_cka(differences.values[rows][both], clean.values[both])
        latents, categories = _dictionary(recording, site, cases)
        for operator in operators:
            candidate = Candidate(site, operator)
            stable = stability(update_directions(operator, means, cases))
            found[candidate] = Terms(semantic, binding, stable)
            modifiers[candidate] = modifier(operator, latents, categories)
        step()
    if not weights.cost:
        return found
    numbers = [i for i, sample in enumerate(recording.manifest.samples) if sample.label == "benign"]
    costs = measure_costs(resampler, modifiers, _spread(numbers, benign), step)
    return {
        candidate: replace(terms, seconds=costs[candidate].seconds, change=costs[candidate].change)
        for candidate, terms in found.items()
    }


def measure_costs(
    resampler: Resampler,
    modifiers: Mapping[Candidate, Modifier],
    numbers: Sequence[int],
    step: Callable[[], None] = lambda: None,
    repeats: int = 2,
) -> dict[Candidate, Cost]:
    """The cost of each candidate's modifier.

    Args:
        numbers: of the benign samples that are made.
        repeats: the least time of so many runs counts, for what else a machine does only adds.

    Raises:
        SteeringError: there are no benign samples, or a latent is not finite.
    """
    if not numbers:
        raise SteeringError(
            f"{resampler.recording.folder}: samples",
            expected="benign prompts, on which the cost of an operator is measured",
            found="none",
            remedy="Record some benign prompts as well, or set the weight of the cost to 0.",
        )
    plain, base = _timed(resampler, numbers, None, repeats)
    step()
    costs: dict[Candidate, Cost] = {}
    for candidate, it in modifiers.items():
        steered = attach(resampler.model, [Entry(candidate.site, it)])
        latents, seconds = _timed(resampler, numbers, steered, repeats)
        change = (latents - plain).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
        costs[candidate] = Cost(max(0.0, seconds - base) / len(numbers), float(change.mean()))
        step()
    return costs


def site_means(recording: Recording, site: Site) -> SampleMeans:
    """Each sample's mean activation at a site of a recording, by bucket."""
    buckets = len(recording.manifest.settings.buckets) - 1
    return sample_means(recording.shards(site), len(recording.manifest.samples), buckets, recording.bucket)


def _timed(resampler: Resampler, numbers: Sequence[int], model: Any, repeats: int) -> tuple[Tensor, float]:
    least = float("inf")
    latents = torch.empty(0)
    for _ in range(repeats):
        start = time.perf_counter()
        latents = resampler.latents(numbers, model)
        least = min(least, time.perf_counter() - start)
    return latents.float(), least


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the numbers, evenly spaced."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[i * len(numbers) // count] for i in range(count)]


def _clean_differences(resampler: Resampler, unsafe: Sequence[int], cases: Cases) -> Differences:
    """Predicted clean latents (D = C·H·W) of safe rewrites minus those of unsafe samples."""
    others = cases.partner[list(unsafe)].tolist()
    values, seen = resampler.predicted([*unsafe, *others])
    count = len(unsafe)
    return Differences(values[count:] - values[:count], seen[count:] & seen[:count])


def _text_differences(resampler: Resampler, cases: Cases) -> Tensor:
    """Text-embedding differences (Q, P) by number of the pair id; zeros where a side is missing."""
    samples = resampler.recording.manifest.samples
    rows: dict[int, Tensor] = {}
    for number in (cases.partner >= 0).nonzero()[:, 0].tolist():
        pair = int(cases.pair[number])
        if pair not in rows:
            sides = (samples[number].text, samples[int(cases.partner[number])].text)
            unsafe, safe = (_embedding(*resampler.encoded(text)) for text in sides)
            rows[pair] = safe - unsafe
    if not rows:
        return torch.empty(0, 0)
    none = torch.zeros_like(next(iter(rows.values())))
    return torch.stack([rows.get(pair, none) for pair in range(int(cases.pair.max()) + 1)])


def _embedding(tokens: Tensor, pooled: Tensor | None) -> Tensor:
    """What stands for a text (P): its pooled state, or the mean of its token states where the encoder has none."""
    if pooled is None or not bool(pooled.any()):
        return tokens.float().mean((0, 1)).cpu()
    return pooled.float().flatten().cpu()


def _dictionary(recording: Recording, site: Site, cases: Cases) -> tuple[Any, Any]:
    rest = recording.read(site, labels=("safe", "benign"), limit=MOST_TOKENS).tokens
    contrasts: dict[str, Contrast] = {}
    named = {sample.category for sample in recording.manifest.samples if sample.label == "unsafe"}
    for name in cases.categories:
        only = [name] if name in named else None
        unsafe = recording.read(site, labels=["unsafe"], categories=only, limit=MOST_TOKENS).tokens
        contrasts[name] = Contrast(unsafe, _mean_change(recording, site, only))
    return dictionary(contrasts, rest)


def _mean_change(recording: Recording, site: Site, categories: list[str] | None) -> Tensor | None:
    try:
        pairs = recording.pairs(site, categories=categories, limit=MOST_TOKENS)
    except SteeringError:
        return None  # a category without pairs: Blend has nothing to say of it
    return (pairs.safe - pairs.unsafe).mean(0) if len(pairs.unsafe) else None
