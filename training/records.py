"""Records of text files, one JSON object a line or CSV with a header, by the lines that messages name."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..steering.errors import SteeringError
from ..steering.formats.fields import shown

Fields = Iterable[tuple[str, Any]]
"""Names and values of a record, as they stand in the file."""


def read_text(path: Path) -> str:
    """A file in UTF-8, with or without a mark in front.

    Raises:
        SteeringError: it cannot be read, or is in another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as reason:
        raise unreadable(path, reason) from reason
    except UnicodeDecodeError as reason:
        raise SteeringError(
            str(path), expected="text in UTF-8", found=str(reason), remedy="Save the file as UTF-8."
        ) from reason


def records(text: str, suffix: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a text in the format of .jsonl or .csv files, each with its line, without those that are empty.

    Fields go by plain names (see `named`); ``name`` is how messages call the text.

    Raises:
        SteeringError: a line is damaged, or says a field twice.
    """
    for number, fields in (_jsonl if suffix == ".jsonl" else _csv)(text, name):
        found = named(f"{name}: line {number}", fields)
        if found:
            yield number, found


def named(where: str, fields: Fields) -> dict[str, Any]:
    """What is not empty, by names without capitals or spaces around them.

    Raises:
        SteeringError: a name is said twice: a second label in other spelling must not hide the first.
    """
    listed = [(key.strip().lower(), None if value == "" else value) for key, value in fields]
    listed = [(key, value) for key, value in listed if key or value is not None]  # spreadsheets end rows so
    twice = [key for key, count in Counter(key for key, _ in listed).items() if count > 1]
    if twice:
        raise SteeringError(
            where,
            expected="each field once",
            found=f"{shown(twice[0])} more than once",
            remedy="Take the others out, or give them names of their own.",
        )
    return {key: value for key, value in listed if value is not None}


def unreadable(path: Path, reason: OSError) -> SteeringError:
    """The refusal of a file that the system does not give."""
    return SteeringError(
        str(path),
        expected="a readable file",
        found=reason.strerror or str(reason),
        remedy="Check the path and its permissions.",
    )


class _Object(list[tuple[str, Any]]):
    """A JSON object's names and values, each as often as it is said."""


def _jsonl(text: str, name: str) -> Iterator[tuple[int, Fields]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_Object)
            wrong = ""
        except (ValueError, RecursionError) as reason:
            value, wrong = None, f" ({reason})"
        if not isinstance(value, _Object):
            raise SteeringError(
                f"{name}: line {number}",
                expected="one JSON object",
                found=shown(line.strip()) + wrong,
                remedy="Write one object a line, with double quotes around names and texts.",
            )
        yield number, value


def _csv(text: str, name: str) -> Iterator[tuple[int, Fields]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next((row for row in reader if row), [])
        for values in reader:
            if len(values) > len(names):
                raise SteeringError(
                    f"{name}: line {reader.line_num}",
                    expected=f"{len(names)} fields",
                    found="more",
                    remedy="Put texts that have commas into double quotes.",
                )
            yield reader.line_num, [*zip(names, values), *((name, None) for name in names[len(values) :])]
    except csv.Error as reason:
        raise SteeringError(
            f"{name}: line {reader.line_num}", expected="CSV", found=str(reason), remedy="Close every quote."
        ) from reason
