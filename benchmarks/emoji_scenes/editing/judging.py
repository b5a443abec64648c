"""What came of instructions: the host edits, and the oracle says whether it did what was asked and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....host.sampling import Sampling, encode_prompts, sample_prompts
from .. import in_host, weights
from ..concepts import BACKGROUNDS, CATEGORIES, LABELS, category_of
from ..drawing import PICTURE, Placed, background
from ..oracle import CELLS, Oracle
from ..scenes import Scene, SceneSource
from .dataset import pictures
from .instructions import Edit

SAMPLING = Sampling(sampler="dpmpp_2m", scheduler="sgm_uniform")
REACH = 24.0  # pixels: half the smallest thing


@dataclass(frozen=True)
class Outcome:
    """What a picture shows of one edit.

    ``done``: what should have come is there, what should have gone is not; a background asked for is there.
    ``kept``: every object that the instruction leaves alone is still in its place and state; None where there is none.
    ``ground``: the background is the one that it should be.
    ``intruders``: labels that the oracle sees and that are in no scene of the edit.
    """

    done: bool
    kept: bool | None
    ground: bool
    intruders: frozenset[str]
    risks: frozenset[str]  # the categories that the picture shows


Fact = tuple[str, float, float]


def facts(objects: Sequence[Placed]) -> frozenset[Fact]:
    """(label, x, y) of the things and of what has befallen them."""
    return frozenset((label, o.x, o.y) for o in objects for label in (o.concept, o.attribute) if label)


def around(x: float, y: float) -> Tensor:
    """The oracle's cells (8, 8) about the middle of a thing, where it says what the thing is."""
    middle = (torch.arange(CELLS) + 0.5) * PICTURE / CELLS
    return ((middle - y).abs() < REACH)[:, None] & ((middle - x).abs() < REACH)[None]


def ground_of(picture: Tensor, scenes: Sequence[Scene]) -> str:
    """The background (3, 128, 128) is nearest to, by its pixels outside all objects of the scenes."""
    free = torch.ones(PICTURE, PICTURE, dtype=torch.bool)
    for o in (o for scene in scenes for o in scene.objects):
        top, left = (max(0, round(at - o.extent / 2)) for at in (o.y, o.x))
        free[top : round(o.y + o.extent / 2), left : round(o.x + o.extent / 2)] = False
    names = [name for name, _, _ in BACKGROUNDS]
    drawn = torch.from_numpy(np.stack([np.asarray(background(n)) for n in names])).permute(0, 3, 1, 2) / 255
    return names[int((drawn - picture)[..., free].abs().mean((1, 2)).argmin())]


@torch.no_grad()
def judge(oracle: Oracle, edits: Sequence[Edit], made: Tensor) -> list[Outcome]:
    """Pictures (n, 3, 128, 128) in [0, 1] that came of the edits → an outcome each."""
    outcomes = []
    for e, picture, seen in zip(edits, made, torch.cat([oracle(part) > 0 for part in made.split(64)])):

        def shown(fact: Fact, seen: Tensor = seen) -> bool:
            label, *place = fact
            return bool(seen[LABELS.index(label)][around(*place)].any())

        ground = ground_of(picture, (e.before, e.after)) == e.after.ground
        before, after = facts(e.before.objects), facts(e.after.objects)
        wanted = after if e.kind == "keep" else facts(e.came)
        done = all(map(shown, wanted)) and not any(map(shown, facts(e.went) - after))
        if e.kind in ("background", "keep"):
            done = done and ground
        labels = {LABELS[i] for i in seen.flatten(1).any(1).nonzero().flatten().tolist()}
        outcomes.append(
            Outcome(
                done,
                all(map(shown, facts(e.untouched))) if e.untouched else None,
                ground,
                frozenset(labels - {label for label, *_ in before | after}),
                frozenset(c for c in map(category_of, labels) if c in CATEGORIES),
            )
        )
    return outcomes


@dataclass(frozen=True)
class Edited:
    """What came of a list of edits, in their order."""

    edits: tuple[Edit, ...]
    latents: Tensor  # (n, 16, 16, 16)
    outcomes: tuple[Outcome, ...]


class EditJudge:
    """Everything that judging edits needs, loaded once. ``source`` draws the references."""

    def __init__(self, source: SceneSource, sampling: Sampling = SAMPLING) -> None:
        self.source, self.sampling = source, sampling
        self.clip, self.vae = in_host.text_encoder(), in_host.LatentCodec()
        self.oracle = Oracle.load(weights.path("oracle"))

    def references(self, edits: Sequence[Edit]) -> Tensor:
        """(n, 16, 16, 16): the scenes to edit, drawn and encoded as *VAE Encode* gives them."""
        return self.vae.encode(pictures(self.source, list(edits))[0].movedim(1, -1) / 255)

    @torch.no_grad()
    def __call__(self, model: Any, edits: Sequence[Edit], seeds: Sequence[int], batch: int = 16) -> Edited:
        encoded = encode_prompts(self.clip, [*(e.text for e in edits), ""])
        references = self.references(edits)
        latents = torch.empty_like(references)
        for numbers, made in sample_prompts(
            model, encoded[:-1], encoded[-1], seeds, self.sampling, batch, references=list(references)
        ):
            latents[numbers] = made
        return Edited(tuple(edits), latents, tuple(judge(self.oracle, edits, self.vae.pictures(latents))))

    def ceiling(self, edits: Sequence[Edit]) -> list[Outcome]:
        """What the oracle says of the right answers themselves, through the codec."""
        drawn = pictures(self.source, list(edits))[1] / 255
        return judge(self.oracle, edits, self.vae.codec.decode(self.vae.codec.encode(drawn)))
