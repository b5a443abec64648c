"""Rows of .jsonl, .csv and .parquet files, each with the number by which messages call it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ...steering.errors import SteeringError
from ...steering.formats.fields import shown

SUFFIXES = (".jsonl", ".csv", ".parquet")


class Row(NamedTuple):
    """One record of a file."""

    where: str
    """The file and the line, or in parquet the row, counted from 1."""
    fields: dict[str, Any]
    """What is not empty in it, by names without capitals or spaces around them."""


def read_rows(path: Path) -> list[Row]:
    """Reads a table.

    Raises:
        SteeringError: the file cannot be read or has another format, a line of it is damaged, or there is no row.
    """
    read = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    if read is None:
        raise SteeringError(
            str(path),
            expected=f"a file ending in {', '.join(SUFFIXES)}",
            found=path.suffix or "no ending",
            remedy="Save it in one of these formats.",
        )
    try:
        rows = [Row(where, _named(where, fields)) for where, fields in read(path)]
    except OSError as reason:
        raise SteeringError(
            str(path),
            expected="a readable file",
            found=reason.strerror or str(reason),
            remedy="Check the path and its permissions.",
        ) from reason
    except UnicodeDecodeError as reason:
        raise SteeringError(
            str(path), expected="text in UTF-8", found=str(reason), remedy="Save the file as UTF-8."
        ) from reason
    rows = [row for row in rows if row.fields]
    if not rows:
        raise SteeringError(
            str(path), expected="at least one row", found="none", remedy="The file is empty: choose another."
        )
    return rows


def text_of(row: Row, key: str, largest: int = 4000) -> str:
    """A field that has to be there and to be a text that is not blank.

    Raises:
        SteeringError: names the file, the line and the field.
    """
    value = row.fields.get(key)
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise SteeringError(
            f"{row.where}: {key}",
            expected="characters of Unicode",
            found=shown(value[:80]),
            remedy="Half of a character is missing: write it anew.",
        )
    if not isinstance(value, str) or not value.strip() or len(value) > largest:
        found = (
            "none"
            if value is None
            else f"{len(value)} characters"
            if isinstance(value, str)
            else shown(value)
        )
        raise SteeringError(
            f"{row.where}: {key}",
            expected=f"a text of 1 to {largest} characters",
            found=found,
            remedy="Write it, or take this line out.",
        )
    return value.strip()


def label_of(row: Row, key: str) -> str | None:
    """A short field that may be missing: a text or a number, as a text."""
    value = row.fields.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # parquet keeps whole numbers so where some are missing
    label = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not label or len(label) > 200 or not label.isprintable():
        raise SteeringError(
            f"{row.where}: {key}",
            expected="at most 200 printable characters",
            found=shown(value),
            remedy="Shorten it, or take it out.",
        )
    return label


Fields = Iterable[tuple[str, Any]]
"""Names and values of a record, as they stand in the file."""


def _named(where: str, fields: Fields) -> dict[str, Any]:
    """By plain names; a second label in other spelling must not hide the first."""
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


def _jsonl(path: Path) -> Iterator[tuple[str, Fields]]:
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_Object)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, _Object):
            raise SteeringError(
                f"{path}: line {number}",
                expected="one JSON object",
                found=shown(line.strip()),
                remedy="Write one object a line, with double quotes around names and texts.",
            )
        yield f"{path}: line {number}", value


class _Object(list[tuple[str, Any]]):
    """A JSON object's names and values, each as often as it is said."""


def _csv(path: Path) -> Iterator[tuple[str, Fields]]:
    reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    try:
        names = next((row for row in reader if row), [])
        for values in reader:
            where = f"{path}: line {reader.line_num}"
            if len(values) > len(names):
                raise SteeringError(
                    where,
                    expected=f"{len(names)} fields",
                    found="more",
                    remedy="Put texts that have commas into double quotes.",
                )
            yield where, [*zip(names, values), *((name, None) for name in names[len(values) :])]
    except csv.Error as reason:
        raise SteeringError(
            f"{path}: line {reader.line_num}", expected="CSV", found=str(reason), remedy="Close every quote."
        ) from reason


def _parquet(path: Path) -> Iterator[tuple[str, Fields]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ModuleNotFoundError as reason:
        raise SteeringError(
            str(path),
            expected="the package pyarrow, which reads parquet files",
            found="none in this Python",
            remedy="Install it with `python -m pip install pyarrow` (the extra `parquet`), or save it as .jsonl.",
        ) from reason
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except OSError:
        raise
    except Exception as reason:  # a damaged file makes the reader fail in many ways
        raise SteeringError(
            str(path),
            expected="a whole parquet file",
            found=f"{type(reason).__name__}: {str(reason)[:200]}",
            remedy="Download it again.",
        ) from reason
    for number, fields in enumerate(rows, 1):
        yield f"{path}: row {number}", fields.items()
