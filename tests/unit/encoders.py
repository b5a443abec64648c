"""Text encoders small enough to be read: each word is a point in a space that all share, seen through a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

import torch
from torch import Tensor

from steerdit.training.directions.anchors import Benign, benign_anchors
from steerdit.training.directions.pairs import Pair, PromptPairs
from steerdit.training.directions.sources import Layer
from steerdit.training.directions.tables import Row

LATENT = 12
NOUNS = [
    "cat",
    "dog",
    "house",
    "kite",
    "leaf",
    "key",
    "car",
    "boat",
    "tree",
    "lamp",
    "chair",
    "bread",
    "stone",
    "cloud",
    "river",
    "glove",
    "drum",
    "fence",
]
QUALITIES = ["rusty", "wet", "golden", "wooden", "fluffy", "frozen", "dusty", "striped", "tiny", "giant"]


def meaning(word: str) -> Tensor:
    """(LATENT) of one word, the same for every encoder."""
    seed = int.from_bytes(sha256(word.encode()).digest()[:4], "little")
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))


class Toy:
    """Layer 0 has nothing but noise; layer 1 and the output have the words' meanings through a matrix of the encoder's
    own.
    """

    def __init__(self, name: str, width: int, seed: int, noise: float = 0.01, bend: float = 0.0) -> None:
        self.name, self.width, self.noise, self.bend = name, width, noise, bend
        g = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(width, LATENT, generator=g) / LATENT**0.5
        self.offset = 3 * torch.randn(width, generator=g)
        self.layers: tuple[Layer, ...] = (None, 0, 1)

    def fingerprint(self) -> str:
        return sha256(self.matrix.numpy().tobytes()).hexdigest()

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[Tensor]:
        for text in texts:
            words = text.split()
            g = torch.Generator().manual_seed(len(text))
            noise = torch.randn(len(words), self.width, generator=g)
            latents = torch.stack([meaning(word) for word in words]) if words else torch.zeros(0, LATENT)
            seen = latents @ self.matrix.T
            seen = seen + self.bend * seen.square() + self.offset + self.noise * noise
            yield torch.stack([noise if layer == 0 else seen for layer in layers])


def benign(count: int = 400, categories: bool = True) -> Benign:
    """Phrases of a quality, a noun and a place."""
    g = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    if categories:
        rows += [
            Row("", {"prompt": f"a {quality} {noun}", "label": "benign", "category": quality})
            for quality in QUALITIES
            for noun in NOUNS[:8]
        ]
    while len(rows) < count:
        one, two, place = torch.randint(len(NOUNS), (3,), generator=g).tolist()
        rows.append(
            Row(
                "",
                {"prompt": f"{NOUNS[one]}{len(rows)} by {NOUNS[two]} on {NOUNS[place]}", "label": "benign"},
            )
        )
    return benign_anchors(rows)


def pairs() -> PromptPairs:
    """Two categories, the second noun of each kept for judging."""
    made = [
        Pair(f"{risk}{i}", risk, f"a {risk} {noun}", f"a {noun}", "held_out" if i % 4 == 3 else None)
        for risk in ("bloody", "burning")
        for i, noun in enumerate(NOUNS)
    ]
    return PromptPairs(tuple(made))
