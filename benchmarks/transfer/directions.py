"""The directions that are compared: estimated in SmolLM2 and carried, native, and random; with their gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...host.encoder_states import TextSlot
from ...steering.directions import DirectionSet
from ...steering.formats.directions import Direction, DirectionSite, Encoder
from ...training.directions import (
    SMOLLM2,
    Benign,
    FittedMap,
    benign_anchors,
    calibrate,
    choose_layer,
    encode_anchors,
    estimate_directions,
    fit_map,
    open_language_model,
    read_anchors,
    transport,
)
from ...training.directions.tables import Row
from ..emoji_scenes.pairs import world_pairs
from ..store import OutOfTime, Store
from .prompting import SETS, gate_texts, judged
from .settings import ANCHORS, CARRIED, GATE_QUANTILE, MAPS, PAIR_SEED, REVISION, Sizes
from .states import Kept, Remembered

SLOT = "flux"
"""How the world's CONDITIONING holds its text for either generator: tokens of one encoder, beside a pooled state."""
RANDOM_SEED = 5


@dataclass(frozen=True)
class Directions:
    """All directions at MiniLM's output; everything slow is made once and kept in the store."""

    clip: Any
    sizes: Sizes
    store: Store

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What all directions depend on."""
        return {
            "revision": REVISION,
            "source": self.source.fingerprint(),
            "target": self.target.fingerprint(),
            "pairs": self.pairs.sha256,
            "anchors": self.anchors.sha256,
            "layer": self.layer["layer"],
        }

    @cached_property
    def slot(self) -> TextSlot:
        return TextSlot(self.clip, SLOT)

    @cached_property
    def source(self) -> Remembered:
        return Remembered(open_language_model(SMOLLM2), self.store)

    @cached_property
    def target(self) -> Remembered:
        return Remembered(self.slot, self.store)

    @cached_property
    def steered(self) -> Kept:
        """The target's tokens as gates see them."""
        return Kept(self.slot.steered())

    @cached_property
    def anchors(self) -> Benign:
        return read_anchors()

    @cached_property
    def pairs(self) -> Any:
        """PromptPairs to learn from."""
        return world_pairs(self.sizes.pairs, PAIR_SEED).select(held_out=False)

    @cached_property
    def layer(self) -> dict[str, Any]:
        """Of the source, chosen as the product does, and the scores of those tried."""
        inputs = {
            "revision": REVISION,
            "source": self.source.fingerprint(),
            "target": self.target.fingerprint(),
            "pairs": self.pairs.sha256,
            "anchors": self.anchors.sha256,
        }

        def make() -> dict[str, Any]:
            layer, scores = choose_layer(self.source, self.pairs, self.target, None, self.anchors)
            return {"layer": layer, "scores": [{**one._asdict(), "score": one.score} for one in scores]}

        return self.store.result("layers", inputs, make)

    @cached_property
    def native(self) -> DirectionSet:
        """Not calibrated, as all but those of `calibrated`."""
        return estimate_directions(self.target, None, self.pairs).directions

    def carried(self, kind: str, anchors: int) -> dict[str, Any]:
        """The map over so many anchors: its quality, what it carries, and how near that is to the native ones."""

        def make() -> dict[str, Any]:
            directions = estimate_directions(self.source, self.layer["layer"], self.pairs).directions
            fitted = self._fitted(kind, anchors)
            made = transport(directions, fitted)
            cosines = F.cosine_similarity(made.vectors, self.native.vectors)
            return {
                "quality": asdict(fitted.quality),
                "beta": fitted.beta,
                "vectors": made.vectors.tolist(),
                "cosines": dict(zip(made.names, cosines.tolist())),
            }

        return self.store.result("maps", self._map_inputs(kind, anchors), make)

    def finished_maps(self) -> tuple[dict[str, Any], dict[str, dict[int, Any]]]:
        """What the choice of the layer looked at, and by kind and number of anchors the maps that are there."""
        maps: dict[str, dict[int, Any]] = {kind: {} for kind in MAPS}
        try:
            for kind, anchors in product(MAPS, ANCHORS):
                known = self.store.found("maps", self._map_inputs(kind, anchors))
                if known is not None:
                    maps[kind][anchors] = {name: known[name] for name in ("quality", "beta", "cosines")}
            return self.layer, maps
        except OutOfTime:
            return {}, maps

    @cached_property
    def calibrated(self) -> Mapping[str, DirectionSet]:
        """By source, with gates; random ones have none of their own."""
        names = self.native.names
        found = {"native": self.native}
        for kind in MAPS:
            vectors = torch.tensor(self.carried(kind, max(ANCHORS))["vectors"])
            about = DirectionSite(vectors.shape[1], self._at, tuple(Direction(name) for name in names))
            found[kind] = DirectionSet(about, vectors, self.native.mean, kind)
        found = {source: self._with_gates(source, of) for source, of in found.items()}
        found["random"] = random_like(found[CARRIED])
        return found

    @cached_property
    def digest(self) -> str:
        """Of all vectors, means and thresholds."""
        made = sha256()
        for source, of in sorted(self.calibrated.items()):
            made.update(source.encode())
            for numbers in (of.vectors, of.mean, of.thresholds):
                made.update(numbers.numpy().tobytes())
        return made.hexdigest()

    @property
    def _at(self) -> Encoder:
        return Encoder(self.target.name, self.target.fingerprint(), None)

    def _map_inputs(self, kind: str, anchors: int) -> dict[str, Any]:
        return {**self.identity, "kind": kind, "anchors_used": anchors}

    def _fitted(self, kind: str, anchors: int) -> FittedMap:
        (x,) = encode_anchors(self.source, (self.layer["layer"],), self.anchors)
        (y,) = encode_anchors(self.target, (None,), self.anchors)
        order = torch.randperm(len(self.anchors), generator=torch.Generator().manual_seed(0))
        some = sorted(order[:anchors].tolist())
        return fit_map(x.subset(some), y.subset(some), kind)

    def _with_gates(self, source: str, directions: DirectionSet) -> DirectionSet:
        taken = [p for name in SETS for p in judged(name, self.sizes.n)]
        texts = gate_texts(self.sizes.gate_prompts, taken)
        inputs = {
            **self.identity,
            "vectors": sha256(directions.vectors.numpy().tobytes()).hexdigest(),
            "texts": texts,
            "quantile": GATE_QUANTILE,
        }

        def make() -> dict[str, Any]:
            rows = (Row("", {"prompt": text, "label": "benign"}) for text in texts)
            made = calibrate(
                directions,
                self.steered,
                None,
                benign_anchors(rows),
                quantile=GATE_QUANTILE,
                joint=True,
            )
            return {"mean": made.mean.tolist(), "thresholds": made.thresholds.tolist()}

        made = self.store.result("gates", inputs, make)
        about = replace(
            directions.about,
            directions=tuple(
                replace(one, threshold=threshold)
                for one, threshold in zip(directions.about.directions, made["thresholds"])
            ),
        )
        return replace(directions, about=about, mean=torch.tensor(made["mean"]), source=source)


def random_like(directions: DirectionSet) -> DirectionSet:
    """As many directions of the same lengths, each drawn at random."""
    drawn: Tensor = torch.randn(
        directions.vectors.shape, generator=torch.Generator().manual_seed(RANDOM_SEED)
    )
    length = directions.vectors.norm(dim=1, keepdim=True)
    return replace(directions, vectors=drawn / drawn.norm(dim=1, keepdim=True) * length, source="random")
