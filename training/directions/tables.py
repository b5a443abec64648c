"""Rows of .jsonl, .csv and .parquet files, each with the number by which messages call it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ...steering.errors import SteeringError
from ...steering.formats.fields import shown
from ..records import named, read_text, records, unreadable

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
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SteeringError(
            str(path),
            expected=f"a file ending in {', '.join(SUFFIXES)}",
            found=path.suffix or "no ending",
            remedy="Save it in one of these formats.",
        )
    if suffix == ".parquet":
        rows = [row for row in _parquet(path) if row.fields]
    else:
        listed = records(read_text(path), suffix, str(path))
        rows = [Row(f"{path}: line {number}", fields) for number, fields in listed]
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


def _parquet(path: Path) -> Iterator[Row]:
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
    except OSError as reason:
        raise unreadable(path, reason) from reason
    except Exception as reason:  # a damaged file makes the reader fail in many ways
        raise SteeringError(
            str(path),
            expected="a whole parquet file",
            found=f"{type(reason).__name__}: {str(reason)[:200]}",
            remedy="Download it again.",
        ) from reason
    for number, fields in enumerate(rows, 1):
        where = f"{path}: row {number}"
        yield Row(where, named(where, fields.items()))
