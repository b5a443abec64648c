"""Makes the shipped bundle: records the generator, trains an SAE a site, selects, adapts, calibrates, writes.

Needs the host on the path (see benchmarks/hosting).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ....evaluation import rates
from ....steering.formats.bundle import Bundle
from ....steering.formats.header import (
    Base,
    BundleHeader,
    Category,
    GateThresholds,
    Made,
    RateRecord,
    SaeSite,
)
from ....steering.formats.writing import write_bundle
from ....steering.sites import Site
from .. import in_host, weights
from ..concepts import CATEGORIES
from ..judging import SAMPLING
from ..prompts import Prompt
from ..recording import Prompts, Recording, paired, record, record_text
from .calibration import calibrate
from .counterparts import counterparts
from .sae import SAEConfig, TrainedSAE, train_sae
from .selection import select, unsafe_scores

TEXT = Site.parse("text")
IMAGE_SITES = tuple(Site.parse(s) for s in ("double.1.image", "single.0.image", "single.1.image"))
TRAIN_SEED, CALIBRATE_SEED = 101, 202  # the benchmarks judge with others
EVERY = 3  # of the 20 steps, which are recorded
WORDS = 8  # times as many prompts at the site text, where they cost nothing
MARGIN = 1.25  # of a gate above the benign quantile, where benign and risky scores overlap
CONFIG = SAEConfig(latents=1024, k=24, steps=1500, batch=1024)


def make(folder: Path, n: int = 64, count: int = 12, config: SAEConfig = CONFIG) -> Bundle:
    """Make the bundle from n unsafe, n mixed and n benign prompts, with at most ``count`` latents a label.

    Blend's counterpart of a risk is, among words, a benign noun in its place; in pictures, the scene without it.
    """
    clip, model = in_host.text_encoder(), in_host.generator()
    seen, judged = (Prompts.drawn(n, seed) for seed in (TRAIN_SEED, CALIBRATE_SEED))
    words, judged_words = (
        Prompts.drawn(WORDS * n, seed, swapped=True) for seed in (TRAIN_SEED, CALIBRATE_SEED)
    )
    pictures = record(model, clip, IMAGE_SITES, seen, EVERY, SAMPLING)
    fresh = record(model, clip, IMAGE_SITES, judged, 1, SAMPLING)
    cases = {TEXT: (record_text(clip, words), words, record_text(clip, judged_words), judged_words)}
    cases |= {site: (pictures[site], seen, fresh[site], judged) for site in IMAGE_SITES}
    sites: dict[Site, SaeSite] = {}
    tensors: dict[str, Tensor] = {}
    for site, (r, said, fresh_r, fresh_said) in cases.items():
        sae = train_sae(r.tokens, config)
        print(f"{site}: fvu {sae.fvu:.3f} l0 {sae.l0:.1f} dead {sae.dead:.2f}", flush=True)
        chosen, parts = describe(sae, r, said, count)
        sites[site] = SaeSite(
            width=sae.encoder.shape[1],
            latents=len(sae.encoder),
            activation="jumprelu",
            k=sae.k,
            input_scale=sae.input_scale,
            categories=gated(site, sae, chosen, fresh_r, fresh_said),
        )
        tensors |= {f"{site}.{part}": t.half() if t.ndim == 2 else t for part, t in parts.items()}
    header = BundleHeader(
        name="Emoji scenes safety",
        family="flux",
        base=Base("emoji-scenes-flux", hashlib.sha256(weights.path("generator").read_bytes()).hexdigest()),
        license="Apache-2.0",
        made=Made(
            "steerdit 0.1.0",
            {
                "prompts": n,
                "prompt_seed": TRAIN_SEED,
                "calibration_seed": CALIBRATE_SEED,
                "prompts_at_text": WORDS * n,
                "steps_between_records": EVERY,
                "latents_a_label": count,
                "gate_margin": MARGIN,
                "adapted_decoder": "rows of the latents of a risk moved by ridge regression to their safe counterparts",
                **asdict(config),
            },
        ),
        sites=sites,
    )
    return write_bundle(folder / weights.FILES["bundle"], header, tensors)


def describe(
    sae: TrainedSAE, r: Recording, said: Prompts, count: int
) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """Select the latents of each category and adapt their decoder rows → latents, and the site's tensors."""
    z = torch.cat([sae.encode(part).half() for part in r.tokens.split(8192)]).float()
    chosen = {category: select_latents(z, r.prompt, said, category, count) for category in CATEGORIES}
    union = sorted({f for latents in chosen.values() for f in latents})
    adapted = sae.decoder.clone()
    adapted[union] += sae.input_scale * counterparts(*paired(z[:, union], r, len(said.risky)))
    return chosen, {
        "encoder": sae.encoder,
        "encoder_bias": sae.encoder_bias,
        "decoder": sae.decoder,
        "decoder_bias": sae.decoder_bias,
        "threshold": sae.threshold,
        "decoder_adapted": adapted,
    }


def select_latents(z: Tensor, prompt: Tensor, said: Prompts, category: str, count: int) -> list[int]:
    """The latents particular to one of the category's labels, against all prompts that lack the category."""

    def mean(which: set[int]) -> Tensor:
        return z[torch.isin(prompt, torch.tensor(sorted(which)))].mean(0)

    having = {i: p for i, p in enumerate(said.risky) if p.category == category}
    rest = mean(set(range(len(said.texts))) - set(having))
    found: set[int] = set()
    for group in by_label(having.items()):
        unsafe = mean(group)
        found.update(select(unsafe_scores(unsafe, rest), unsafe, rest, count))
    return sorted(found)


def by_label(numbered: Iterable[tuple[int, Prompt]]) -> list[set[int]]:
    """Numbers of the prompts that share one thing of the category, or its attribute: each gets its own latents."""
    groups: dict[str, set[int]] = {}
    for i, p in numbered:
        groups.setdefault(p.unsafe or "", set()).add(i)
    return list(groups.values())


def gated(
    site: Site, sae: TrainedSAE, chosen: dict[str, list[int]], r: Recording, said: Prompts
) -> dict[str, Category]:
    """Calibrate the gates of each category on prompts that nothing was trained on."""
    risky, benign = len(said.risky), 2 * len(said.risky)
    sums = torch.stack(
        [
            torch.zeros(len(sae.encoder)).index_fill(0, torch.tensor(f, dtype=torch.long), 1.0)
            for f in chosen.values()
        ]
    )
    of_category = torch.cat(
        [sae.encode(part) @ sums.T for part in r.tokens.split(8192)]
    )  # (tokens, categories)
    categories: dict[str, Category] = {}
    for category, latents in chosen.items():
        if not latents:
            print(f"{site}: no latent is particular to {category}", flush=True)
            continue
        scores = of_category[:, list(chosen).index(category)]
        best = torch.zeros(len(said.texts)).scatter_reduce(0, r.prompt, scores, "amax")
        having = torch.tensor([p.category == category for p in said.risky])
        image = calibrate(best[benign:], best[:risky][having], 0.999, MARGIN)
        token = calibrate(scores[r.prompt >= risky], scores[r.prompt < risky], 0.999)
        gate = GateThresholds(
            token.threshold, image.threshold, as_rate(image.false_positive), as_rate(image.recall)
        )
        categories[category] = Category(tuple(latents), (1.0,) * len(latents), gate)
        print(
            f"{site} {category}: {len(latents)} latents, image gate {image.threshold:.3f}, "
            f"false positive {image.false_positive.value:.3f}, recall {image.recall.value:.3f}",
            flush=True,
        )
    return categories


def as_rate(r: rates.Rate) -> RateRecord:
    return RateRecord(r.value, r.low, r.high)
