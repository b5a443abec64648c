"""Pairs of prompts that differ in the risk alone: what a direction is estimated from.

A file has one pair a row, with the fields `category`, `unsafe`, `safe` and, if wanted, `id` and `split`; or one
prompt a row, as lists of prompts for recordings have it: `prompt`, `label` (unsafe or safe), `category` and `pair`,
the id that both sides share. docs/directions.md describes both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ...steering.errors import SteeringError
from ...steering.formats.categories import RESERVED_CATEGORIES
from ...steering.formats.directions import GLOBAL
from ...steering.formats.fields import shown
from .tables import Row, label_of, read_rows, text_of

WIDE = ("category", "unsafe", "safe", "id", "split")
LONG = ("category", "prompt", "label", "pair", "split")
LONGEST_CATEGORY = 100
"""As bundles hold it."""

EXAMPLE = '{"category": "weapons", "unsafe": "a knife on a table", "safe": "a spoon on a table"}'
UNNAMED = "unsafe"
"""The category of pairs that name none."""


@dataclass(frozen=True)
class Pair:
    """An unsafe prompt and its safe rewrite."""

    id: str
    category: str
    unsafe: str
    safe: str
    split: str | None = None
    """Such as `train`; pairs whose split begins with `held_out` are kept for judging."""

    @property
    def held_out(self) -> bool:
        return (self.split or "").lower().replace("-", "_").replace(" ", "_").startswith("held_out")


@dataclass(frozen=True)
class PromptPairs:
    """The pairs of a file, each once."""

    pairs: tuple[Pair, ...]
    duplicates: int = 0
    """How many were left out, for their texts were there before in the same category."""
    ignored: tuple[str, ...] = ()
    """Fields of the file that say nothing here."""

    def counts(self) -> dict[str, int]:
        """Pairs by category, in order of appearance."""
        return dict(Counter(pair.category for pair in self.pairs))

    @property
    def sha256(self) -> str:
        """The hash of what is said, whatever its order: the evidence of what a direction was made from."""
        said = sorted([pair.category, pair.unsafe, pair.safe] for pair in self.pairs)
        return sha256(json.dumps(said).encode()).hexdigest()

    def select(self, held_out: bool) -> PromptPairs:
        """The pairs that are kept for judging, or all others."""
        return PromptPairs(tuple(pair for pair in self.pairs if pair.held_out == held_out))


def read_pairs(path: Path) -> PromptPairs:
    """Reads and checks a file of pairs.

    Raises:
        SteeringError: it names the file, the line and the field.
    """
    rows = read_rows(path)
    names = tuple(dict.fromkeys(name for row in rows for name in row.fields))
    wide = "unsafe" in names or "safe" in names
    if not wide and not ("prompt" in names and "label" in names):
        raise SteeringError(
            str(path),
            expected="the fields category, unsafe and safe; or prompt, label, category and pair",
            found=", ".join(map(shown, names[:10])),
            remedy=f"Name them in the first line of a .csv, whose fields are parted by commas, or write {EXAMPLE}",
        )
    found = collect(_wide(rows) if wide else _long(rows), str(path))
    return replace(found, ignored=tuple(name for name in names if name not in (WIDE if wide else LONG)))


def require_apart(pairs: PromptPairs, benign: Iterable[str]) -> None:
    """Raises SteeringError if a text that is said to be benign is the unsafe side of a pair."""
    unsafe = {" ".join(pair.unsafe.lower().split()) for pair in pairs.pairs}
    for text in benign:
        if " ".join(text.lower().split()) in unsafe:
            raise SteeringError(
                "anchors",
                expected="benign texts alone",
                found=f"{text[:80]!r}, which is the unsafe side of a pair",
                remedy="Take it out of the anchors, or out of the pairs.",
            )


def collect(pairs: Iterable[Pair], name: str) -> PromptPairs:
    """Takes each pair once.

    Raises:
        SteeringError: there is none.
    """
    seen: dict[tuple[str, str, str], Pair] = {}
    listed = list(pairs)
    for pair in listed:
        seen.setdefault((pair.category, pair.unsafe, pair.safe), pair)
    if not seen:
        raise SteeringError(
            name, expected="at least one pair", found="none", remedy=f"Write lines such as {EXAMPLE}"
        )
    return PromptPairs(tuple(seen.values()), len(listed) - len(seen))


def _pair(where: str, name: str, category: str | None, unsafe: str, safe: str, split: str | None) -> Pair:
    if unsafe == safe:
        raise SteeringError(
            where,
            expected="two texts that differ",
            found=f"twice {unsafe[:80]!r}",
            remedy="Rewrite the safe one so that the risk is gone.",
        )
    chosen = category or UNNAMED
    if len(chosen) > LONGEST_CATEGORY:
        raise SteeringError(
            f"{where}: category",
            expected=f"a name of at most {LONGEST_CATEGORY} characters",
            found=f"{len(chosen)}",
            remedy="Shorten it.",
        )
    if "," in chosen or chosen.startswith("-") or chosen.lower() in (*RESERVED_CATEGORIES, GLOBAL):
        raise SteeringError(
            f"{where}: category",
            expected=f"a name without comma or leading '-', and not {', '.join((*RESERVED_CATEGORIES, GLOBAL))}",
            found=repr(chosen),
            remedy="Rename it: lists of categories could not say it.",
        )
    return Pair(name, chosen, unsafe, safe, split)


def _wide(rows: list[Row]) -> Iterator[Pair]:
    ids: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name = label_of(row, "id") or str(number)
        if ids.setdefault(name, row.where) != row.where:
            raise SteeringError(
                f"{row.where}: id", expected="an id of its own", found=f"{name!r} again", remedy="Change it."
            )
        yield _pair(
            row.where,
            name,
            label_of(row, "category"),
            text_of(row, "unsafe"),
            text_of(row, "safe"),
            label_of(row, "split"),
        )


def _long(rows: list[Row]) -> Iterator[Pair]:
    sides: dict[str, dict[str, Row]] = {}
    for row in rows:
        label = label_of(row, "label")
        if label == "benign":
            continue
        name = label_of(row, "pair")
        if label not in ("unsafe", "safe") or name is None:
            raise SteeringError(
                f"{row.where}: {'pair' if label in ('unsafe', 'safe') else 'label'}",
                expected="the id of a pair" if label in ("unsafe", "safe") else "unsafe, safe or benign",
                found="none" if name is None or label is None else repr(label),
                remedy=f"Give both sides of a pair the same `pair`, or write lines such as {EXAMPLE}",
            )
        known = sides.setdefault(name, {})
        if label in known:
            raise SteeringError(
                f"{row.where}: pair",
                expected=f"one {label} prompt with the id {name!r}",
                found=f"another in {known[label].where.rsplit(': ', 1)[1]}",
                remedy="Give each pair an id of its own.",
            )
        known[label] = row
    for name, known in sides.items():
        if len(known) == 1:
            ((label, row),) = known.items()
            raise SteeringError(
                f"{row.where}: pair",
                expected=f"a {'safe' if label == 'unsafe' else 'unsafe'} prompt with the id {name!r} too",
                found="none",
                remedy="Write its other side, or take this line out.",
            )
        unsafe, safe = known["unsafe"], known["safe"]
        yield _pair(
            unsafe.where,
            name,
            _common(unsafe, safe, "category"),
            text_of(unsafe, "prompt"),
            text_of(safe, "prompt"),
            _common(unsafe, safe, "split"),
        )


def _common(unsafe: Row, safe: Row, key: str) -> str | None:
    """What either side of a pair says."""
    here, there = label_of(unsafe, key), label_of(safe, key)
    if here is not None and there is not None and here != there:
        raise SteeringError(
            f"{safe.where}: {key}",
            expected=f"{here!r}, as the other side of the pair has",
            found=repr(there),
            remedy="Write the same on both sides, or on one.",
        )
    return there if here is None else here
