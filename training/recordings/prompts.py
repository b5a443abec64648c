"""Lists of prompts: what is recorded, by label, risk category and pair.

A file is .jsonl (one object a line), .csv (with a header) or .txt (one prompt a line, all of one label). Its fields are
`prompt`, `label` (unsafe, safe or benign), `category` and `pair`. An unsafe prompt and its safe rewrite carry the same
pair id, which no other prompts have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...steering.errors import SteeringError
from ...steering.formats.categories import require_category_name
from ...steering.formats.fields import Field, shown
from ..records import read_text, records
from .manifest import LABELS, LONGEST_TEXT, Sample

FIELDS = ("prompt", "label", "category", "pair")
SUFFIXES = (".jsonl", ".csv", ".txt")
EXAMPLE = '{"prompt": "a knife on a table", "label": "unsafe", "category": "weapons", "pair": "17"}'
LIKE = f"Write it like {EXAMPLE}"


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a list."""

    text: str
    label: str
    category: str | None = None
    pair: str | None = None


def read_prompts(path: str | os.PathLike[str], *, label: str = "benign") -> tuple[PromptRow, ...]:
    """The prompts of a file; ``label`` is that of every line of a .txt.

    Raises:
        SteeringError: names the file and the line.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise SteeringError(
            str(file),
            expected=f"a file ending in {', '.join(SUFFIXES)}",
            found=file.suffix or "no ending",
            remedy="Save the list of prompts in one of these formats.",
        )
    return parse_prompts(read_text(file), file.suffix.lower(), str(file), label=label)


def parse_prompts(text: str, suffix: str, name: str, *, label: str = "benign") -> tuple[PromptRow, ...]:
    """As `read_prompts`, of a text in the format of files with that suffix; ``name`` is how messages call it."""
    numbered = _plain_lines(text, label) if suffix == ".txt" else records(text, suffix, name)
    rows = [(number, _row(f"{name}: line {number}", fields)) for number, fields in numbered]
    if not rows:
        raise SteeringError(
            name, expected="at least one prompt", found="none", remedy=f"Write lines such as {EXAMPLE}"
        )
    _require_whole_pairs(rows, name)
    return tuple(row for _, row in rows)


def samples_of(rows: Iterable[PromptRow], seeds: Sequence[int], order: int = 0) -> tuple[Sample, ...]:
    """Every prompt with every seed, mixed by ``order`` so that each shard has something of all labels.

    Both sides of a pair stay beside each other, and what stands where depends on each sample alone: a longer list
    of prompts keeps the order of a shorter one.
    """
    samples = [Sample(row.text, row.label, row.category, row.pair, seed) for row in rows for seed in seeds]
    if not samples:
        raise SteeringError(
            "prompts and seeds",
            expected="at least one of each",
            found="none",
            remedy="Give a list of prompts and at least one seed.",
        )

    return tuple(sorted(samples, key=lambda sample: (identity(sample, order), LABELS.index(sample.label))))


def identity(sample: Sample, salt: int) -> bytes:
    """A hash of what a sample is; both sides of a pair with the same seed have the same."""
    said = ("text", sample.text) if sample.pair is None else ("pair", sample.pair)
    return sha256("\0".join((str(salt), str(sample.seed), *said)).encode()).digest()


def partners(samples: Sequence[Sample]) -> list[int | None]:
    """For each sample the number of the other side of its pair with the same seed, where there is one."""
    known: dict[tuple[str, int], dict[str, int]] = {}
    for number, sample in enumerate(samples):
        if sample.pair is not None:
            known.setdefault((sample.pair, sample.seed), {})[sample.label] = number
    other = {"unsafe": "safe", "safe": "unsafe"}
    return [
        None if sample.pair is None else known[sample.pair, sample.seed].get(other[sample.label])
        for sample in samples
    ]


def _plain_lines(text: str, label: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, {"prompt": line, "label": label}


def _row(where: str, fields: dict[str, Any]) -> PromptRow:
    unknown = [key for key in fields if key not in FIELDS]
    if unknown:
        raise _refused(where, f"the fields {', '.join(FIELDS)}", f"the field {shown(unknown[0])}")
    for key in ("prompt", "label"):
        if key not in fields:
            raise _refused(f"{where}: {key}", f"a {key}", "none")
    for key, value in fields.items():
        numbered = key == "pair" and type(value) is int
        if not (value is None or isinstance(value, str) or numbered):
            raise _refused(f"{where}: {key}", "a text", shown(value))
    text, label = str(fields["prompt"]).strip(), fields["label"]
    if not text or len(text) > LONGEST_TEXT:
        raise _refused(
            f"{where}: prompt", f"a text of 1 to {LONGEST_TEXT} characters", f"{len(text)} characters"
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _refused(f"{where}: prompt", "text in Unicode", f"half a character in {shown(text)}")
    if label not in LABELS:
        raise _refused(f"{where}: label", f"one of {', '.join(LABELS)}", shown(label))
    category, pair = (str(fields[key]).strip() if fields.get(key) is not None else "" for key in FIELDS[2:])
    for key, value in (("category", category), ("pair", pair)):
        if len(value) > 200 or not value.isprintable():
            raise _refused(f"{where}: {key}", "at most 200 printable characters", shown(value))
    if category:  # a bundle will have to take it, when hours of work are done
        require_category_name(category, Field(f"{where}: category", "", category, SteeringError, LIKE))
    return PromptRow(text, str(label), category or None, pair or None)


def _require_whole_pairs(rows: Sequence[tuple[int, PromptRow]], name: str) -> None:
    """Each pair id names one unsafe prompt and its one safe rewrite."""
    pairs: dict[str, dict[str, int]] = {}
    for number, row in rows:
        where = f"{name}: line {number}: pair"
        if row.pair is None:
            if row.label == "safe":
                raise _refused(where, "the pair id of the unsafe prompt that this rewrites", "none")
            continue
        if row.label == "benign":
            raise _refused(where, "no pair id for a benign prompt", shown(row.pair))
        sides = pairs.setdefault(row.pair, {})
        if row.label in sides:
            raise _refused(
                where,
                f"one {row.label} prompt with the pair id {row.pair!r}",
                f"another in line {sides[row.label]}",
            )
        sides[row.label] = number
    for pair, sides in pairs.items():
        if len(sides) == 1:
            ((label, number),) = sides.items()
            missing = "safe" if label == "unsafe" else "unsafe"
            raise _refused(
                f"{name}: line {number}: pair", f"a {missing} prompt with the pair id {pair!r} too", "none"
            )


def _refused(where: str, expected: str, found: str) -> SteeringError:
    return SteeringError(where, expected=expected, found=found, remedy=LIKE)
