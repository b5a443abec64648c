"""Rows of .jsonl, .csv and .parquet files, each with the number by which messages call it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
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
    """What is not empty in it."""


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
        rows = [
            Row(where, {k: v for k, v in fields.items() if v not in (None, "")})
            for where, fields in read(path)
        ]
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
    label = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not label or len(label) > 200 or not label.isprintable():
        raise SteeringError(
            f"{row.where}: {key}",
            expected="at most 200 printable characters",
            found=shown(value),
            remedy="Shorten it, or take it out.",
        )
    return label


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise SteeringError(
                f"{path}: line {number}",
                expected="one JSON object",
                found=shown(line.strip()),
                remedy="Write one object a line, with double quotes around names and texts.",
            )
        yield f"{path}: line {number}", value


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(path.read_bytes().decode("utf-8-sig").splitlines(keepends=True), strict=True)
    try:
        for fields in reader:
            where = f"{path}: line {reader.line_num}"
            if None in fields:
                raise SteeringError(
                    where,
                    expected=f"{len(reader.fieldnames or ())} fields",
                    found="more",
                    remedy="Put texts that have commas into double quotes.",
                )
            yield where, {key.strip(): value for key, value in fields.items()}
    except csv.Error as reason:
        raise SteeringError(
            f"{path}: line {reader.line_num}", expected="CSV", found=str(reason), remedy="Close every quote."
        ) from reason


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
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
        yield f"{path}: row {number}", fields
