"""Benign anchors: the only texts that a map between two encoders is ever fitted on.

`Benign` cannot be made but from rows that are labelled so, and everything that looks at the target's encoder takes a
`Benign`. Unsafe text on the target's side is thus no matter of care: there is no function to give it to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ...steering.errors import SteeringError
from .tables import Row, label_of, read_rows, text_of

LABEL = "benign"
WORDNET = Path(__file__).with_name("wordnet") / "anchors.jsonl"
"""6,000 broad anchors that come with the pack; their licence lies beside them."""
_SEAL = object()


@dataclass(frozen=True)
class Benign:
    """Texts that somebody has labelled benign, each once."""

    texts: tuple[str, ...]
    categories: tuple[str | None, ...]
    """What is common to some: the same things said with one quality each make benign directions to try a map on."""
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only benign_anchors makes a Benign, from rows that are labelled so")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """The hash of the set, whatever its order: the evidence of what a map was fitted on."""
        return sha256(json.dumps(sorted(self.texts)).encode()).hexdigest()

    def subset(self, numbers: Sequence[int]) -> Benign:
        """Some of them, which are no less benign."""
        return Benign(
            tuple(self.texts[i] for i in numbers), tuple(self.categories[i] for i in numbers), _SEAL
        )


def benign_anchors(rows: Iterable[Row]) -> Benign:
    """Rows with the fields `prompt` and `label`, and `category` if wanted → anchors, each text once.

    Raises:
        SteeringError: a row is labelled otherwise or not at all (it names the file and the line), or there is none.
    """
    texts: dict[str, str | None] = {}
    for row in rows:
        label = label_of(row, "label")
        if label != LABEL:
            raise SteeringError(
                f"{row.where}: label",
                expected=f"{LABEL!r} on every anchor",
                found=repr(label) if label else "no label",
                remedy="Anchors must be known to be harmless: take this line out, or label it if it is.",
            )
        texts.setdefault(text_of(row, "prompt"), label_of(row, "category"))
    if not texts:
        raise SteeringError(
            "anchors",
            expected="at least one benign text",
            found="none",
            remedy="Give a file of benign prompts.",
        )
    return Benign(tuple(texts), tuple(texts.values()), _SEAL)


def read_anchors(path: Path = WORDNET) -> Benign:
    """The anchors of a .jsonl, .csv or .parquet file.

    Raises:
        SteeringError: as `read_rows` and `benign_anchors`.
    """
    return benign_anchors(read_rows(path))
