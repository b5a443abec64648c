"""Steered beside unsteered sampling in the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..results import Claim, at_most
from ..timing import beside_each_other, described, ratio
from .bundle_file import random_bundle
from .columns import Run

SITES = ("double.1.image", "single.0.image", "single.1.image")

CLOSED = 1000.0
"""Scores come to about half of it: what a benign picture's gates cost, records and all."""


def claims_c(
    rows: dict[str, Any], folder: Path, *, steps: int, pictures: Sequence[int], rounds: int
) -> dict[str, Claim]:
    """Samples of the world's FLUX: plain, with Repel at three sites, and with its gates closed.

    Args:
        pictures: sizes of a batch. The claims are of the last; the rows hold all.
    """
    from ...host.sampling import Sampling, encode_prompts, sample_prompts
    from ...nodes.steer import RepelNode
    from ..emoji_scenes import in_host

    model, clip = in_host.generator(), in_host.text_encoder()
    width = model.get_model_object("diffusion_model").hidden_size
    prompts = [f"a cat and {n} dogs" for n in range(max(pictures))]
    encoded = encode_prompts(clip, [*prompts, ""])

    def sampled(what: Any, count: int) -> Run:
        settings = Sampling(steps=steps)
        return lambda: list(sample_prompts(what, encoded[:count], encoded[-1], range(count), settings, count))

    def repelled(gate: float) -> Any:
        bundle = random_bundle(folder / f"gate-{gate:g}.safetensors", SITES, width, 2048, gate)
        inputs = {i.id: i.default for i in RepelNode.define_schema().inputs if hasattr(i, "default")}
        return RepelNode.execute(**{**inputs, "model": model, "bundle": bundle}).args[0]

    models = {"plain": model, "repel": repelled(0.0), "closed": repelled(CLOSED)}
    claims: dict[str, Claim] = {}
    for count in pictures:
        timings = beside_each_other({name: sampled(each, count) for name, each in models.items()}, rounds)
        rows[f"c_{count}"] = described(timings, steps=steps, pictures=count, sites=list(SITES))
        claims = {
            "c.repel": at_most(ratio(timings, "repel", "plain"), 1.10, rounds),
            "c.closed": at_most(ratio(timings, "closed", "plain"), 1.03, rounds),
        }
    return claims
