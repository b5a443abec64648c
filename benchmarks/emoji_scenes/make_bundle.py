"""Makes the shipped bundle: records the generator, trains an SAE a site, selects, calibrates, writes.

Recording runs in the host by the same wrapper that steers. Needs the host on the path (see benchmarks/hosting).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...host.attach import attach
from ...host.recording import Recorded, Recorder
from ...host.sampling import Sampling, encode_prompts, sample_prompts
from ...steering.formats.bundle import Bundle, write_bundle
from ...steering.formats.header import Base, BundleHeader, Category, Gate, Made, Rate, SaeSite
from ...steering.plan import Entry
from ...steering.schedules import Schedule
from ...steering.sites import Site
from ...training.calibration import Calibration, calibrate
from ...training.counterparts import counterparts
from ...training.sae import SAEConfig, TrainedSAE, train_sae
from ...training.selection import select, unsafe_scores
from . import in_host, weights
from .concepts import CATEGORIES
from .prompts import Prompt, prompts

SITES = tuple(Site.parse(s) for s in ("text", "double.1.image", "single.0.image", "single.1.image"))
TRAIN_SEED, CALIBRATE_SEED = 101, 202  # the benchmarks judge with others
EVERY = 3  # of the 20 steps, which are recorded


@dataclass(frozen=True)
class Recording:
    """Activations of one site. Rows of one visit are (prompt, step, token)."""

    tokens: Tensor  # (n, d), float16
    prompt: Tensor  # (n,)
    step: Tensor  # (n,)


def record(
    model: Any,
    clip: Any,
    texts: Sequence[str],
    seeds: Sequence[int],
    every: int,
    sampling: Sampling = Sampling(),
) -> dict[Site, Recording]:
    """Generate the texts and keep what passes the sites, every so many steps; the conditioning, once."""
    kept: dict[Site, list[tuple[Tensor, int, int]]] = {site: [] for site in SITES}
    numbers: list[int] = []

    def keep(r: Recorded) -> None:
        step = round((1 - r.sigma) * sampling.steps)
        if step == 0 if r.site.block == "text" else step % every == every // 2:
            kept[r.site].append((r.tokens, numbers[r.image], step))

    recorder = Recorder(keep, torch.float16)
    watched = attach(model, [Entry(site, recorder, Schedule()) for site in SITES])
    encoded = encode_prompts(clip, [*texts, ""])
    todo = sample_prompts(watched, encoded[:-1], encoded[-1], seeds, sampling, announce=numbers)
    for done, _ in todo:
        print(f"recorded {len(done)} of {len(texts)}", flush=True)

    def gather(parts: list[tuple[Tensor, int, int]]) -> Recording:
        lengths = torch.tensor([len(t) for t, _, _ in parts])
        return Recording(
            torch.cat([t for t, _, _ in parts]),
            *(torch.tensor([p[i] for p in parts]).repeat_interleave(lengths) for i in (1, 2)),
        )

    return {site: gather(parts) for site, parts in kept.items()}


def risk_groups(chosen: Sequence[Prompt], category: str) -> list[set[int]]:
    """Numbers of the prompts that share one thing of the category, or its attribute: each gets its own latents."""
    labels = sorted({p.unsafe for p in chosen if p.category == category and p.unsafe})
    return [{i for i, p in enumerate(chosen) if p.unsafe == label} for label in labels]


def mean_latents(z: Tensor, prompt: Tensor, which: set[int]) -> Tensor:
    return z[torch.isin(prompt, torch.tensor(sorted(which)))].mean(0)


def select_latents(z: Tensor, prompt: Tensor, chosen: Sequence[Prompt], count: int) -> dict[str, list[int]]:
    """Per category, the latents particular to one of its labels against all prompts that lack the category."""
    out: dict[str, list[int]] = {}
    for category in CATEGORIES:
        rest = mean_latents(
            z,
            prompt,
            {i for i in range(2 * len(chosen)) if i >= len(chosen) or chosen[i].category != category},
        )
        found: list[int] = []
        for group in risk_groups(chosen, category):
            unsafe = mean_latents(z, prompt, group)
            found += [f for f in select(unsafe_scores(unsafe, rest), unsafe, rest, count) if f not in found]
        out[category] = sorted(found)
    return out


def best_scores(sae: TrainedSAE, latents: list[int], r: Recording, n: int) -> tuple[Tensor, Tensor]:
    """Category scores of tokens (rows,), and the largest per prompt over all its tokens and steps (n,)."""
    scores = torch.cat([sae.encode(part)[:, latents].sum(1) for part in r.tokens.split(8192)])
    return scores, torch.zeros(n).scatter_reduce(0, r.prompt, scores, "amax")


def as_rate(c: Any) -> Rate:
    return Rate(c.value, c.low, c.high)


def make(
    folder: Path,
    per_category: int = 60,
    count: int = 12,
    config: SAEConfig = SAEConfig(latents=1024, k=24, steps=2500, batch=1024),
) -> Bundle:
    clip, model = in_host.text_encoder(), in_host.generator()
    n = per_category * len(CATEGORIES)
    risky = [*prompts("unsafe", n // 2, TRAIN_SEED), *prompts("mixed", n // 2, TRAIN_SEED)]
    rewrites = [p.rewrite or "" for p in risky]
    benign = list(prompts("benign", n // 2, TRAIN_SEED))
    texts = [p.text for p in risky] + rewrites + [p.text for p in benign]
    seeds = [p.seed for p in risky] * 2 + [p.seed for p in benign]
    recorded = record(model, clip, texts, seeds, EVERY)
    fresh_benign = list(prompts("benign", 2 * n, CALIBRATE_SEED))
    fresh_risky = [*prompts("unsafe", n, CALIBRATE_SEED), *prompts("mixed", n, CALIBRATE_SEED)]
    fresh = record(
        model,
        clip,
        [p.text for p in (*fresh_benign, *fresh_risky)],
        [p.seed for p in (*fresh_benign, *fresh_risky)],
        1,
    )
    sites: dict[Site, SaeSite] = {}
    tensors: dict[str, Tensor] = {}
    for site in SITES:
        sae = train_sae(recorded[site].tokens, config)
        print(f"{site}: fvu {sae.fvu:.3f} l0 {sae.l0:.1f} dead {sae.dead:.2f}", flush=True)
        sites[site], named = make_site(
            site, sae, recorded[site], fresh[site], risky, len(fresh_benign), fresh_risky, count
        )
        tensors |= named
    header = BundleHeader(
        name="Emoji scenes safety",
        family="flux",
        base=Base("emoji-scenes-flux", hashlib.sha256(weights.path("generator").read_bytes()).hexdigest()),
        license="Apache-2.0",
        made=Made(
            "steerdit 0.1.0",
            {
                "prompts": len(texts),
                "seed": TRAIN_SEED,
                "steps": config.steps,
                "k": config.k,
                "latents_a_label": count,
            },
        ),
        sites=sites,
    )
    return write_bundle(folder / weights.FILES["bundle"], header, tensors)


def make_site(
    site: Site,
    sae: TrainedSAE,
    r: Recording,
    fresh: Recording,
    risky: Sequence[Prompt],
    benign: int,
    fresh_risky: Sequence[Prompt],
    count: int,
) -> tuple[SaeSite, dict[str, Tensor]]:
    """Select, adapt and calibrate at one site → its description and tensors."""
    z = torch.cat([sae.encode(part).half() for part in r.tokens.split(8192)]).float()
    chosen = select_latents(z, r.prompt, risky, count)
    union = sorted({f for latents in chosen.values() for f in latents})
    adapted = sae.decoder.clone()
    adapted[union] += sae.input_scale * counterparts(*paired(z[:, union], r, len(risky)))
    categories: dict[str, Category] = {}
    for category, latents in chosen.items():
        if not latents:
            print(f"{site}: no latent is particular to {category}", flush=True)
            continue
        tokens, best = best_scores(sae, latents, fresh, benign + len(fresh_risky))
        is_risky = torch.tensor([p.category == category for p in fresh_risky])
        image: Calibration = calibrate(best[:benign], best[benign:][is_risky], 0.995, 1.05)
        token = calibrate(tokens[fresh.prompt < benign], tokens[fresh.prompt >= benign], 0.999)
        categories[category] = Category(
            tuple(latents),
            (1.0,) * len(latents),
            Gate(token.threshold, image.threshold, as_rate(image.false_positive), as_rate(image.recall)),
        )
        print(
            f"{site} {category}: {len(latents)} latents, image gate {image.threshold:.3f}, "
            f"false positive {image.false_positive.value:.3f}, recall {image.recall.value:.3f}",
            flush=True,
        )
    description = SaeSite(
        sae.encoder.shape[1], len(sae.encoder), "jumprelu", sae.k, sae.input_scale, categories
    )
    named = {
        "encoder": sae.encoder,
        "encoder_bias": sae.encoder_bias,
        "decoder": sae.decoder,
        "decoder_bias": sae.decoder_bias,
        "threshold": sae.threshold,
        "decoder_adapted": adapted,
    }
    return description, {f"{site}.{part}": t.half() if t.ndim == 2 else t for part, t in named.items()}


def paired(z: Tensor, r: Recording, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents and activations of unsafe prompts 0 … n−1 beside those of their rewrites n … 2n−1, token by token.

    Pairs of texts with unequal numbers of tokens, which cannot be laid side by side, are left out.
    """
    left, right = [], []
    where: dict[int, Tensor] = {int(p): (r.prompt == p).nonzero().flatten() for p in r.prompt.unique()}
    for i in range(n):
        a, b = where[i], where[n + i]
        if len(a) == len(b):
            left.append(a)
            right.append(b)
    if not left:
        raise ValueError(
            "no rewrite has as many tokens as its unsafe prompt: Blend cannot be made at this site"
        )
    a, b = torch.cat(left), torch.cat(right)
    return z[a], r.tokens[a].float(), r.tokens[b].float()
