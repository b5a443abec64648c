"""Reads JSON that may be hostile, one named field at a time.

`parse_json` turns text into plain values and refuses what JSON readers usually let through (duplicate keys,
NaN, towers of brackets). `Field` walks those values; each refusal names the file and the path of the field.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from ..errors import BundleError, SteeringError

SHA256 = re.compile(r"[0-9a-f]{64}")
_IDENTIFIER = r"\(*[A-Za-z0-9][A-Za-z0-9.-]*\+?\)*"
LICENSE = re.compile(rf"(?=.{{1,200}}$){_IDENTIFIER}( (AND|OR|WITH) {_IDENTIFIER})*")
"""An SPDX licence expression; brackets are not counted. weights_manifest.schema.json has the same pattern."""

DAMAGED = "The file is damaged or was not made for SteerDiT: download it again, or ask whoever made it."


def shown(value: object) -> str:
    """A value as it can stand in a message: short, quoted, one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain(name: str) -> str:
    """A name from a file as it can stand in a message: as it is if short and printable, else cut and quoted."""
    return name if name.isprintable() and len(name) <= 60 else shown(name)


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names from a file, the first of them, as they can stand in a message; empty where there is none."""
    known = list(names)
    more = [f"{len(known) - most} more"] if len(known) > most else []
    return ", ".join([*map(plain, known[:most]), *more])


def parse_json(
    text: str | bytes, where: str, *, error: type[SteeringError] = BundleError, remedy: str = DAMAGED
) -> object:
    """The value that `text` says, or a refusal that names `where`."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise error(
                    where, expected="each key once", found=f"{shown(name)} more than once", remedy=remedy
                )
            found[name] = value
        return found

    def constant(name: str) -> NoReturn:
        raise error(where, expected="finite numbers", found=name, remedy=remedy)

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except SteeringError:
        raise
    except RecursionError:
        found = "brackets nested too deeply"
    except ValueError as reason:  # bad syntax, bad UTF-8, or a number with thousands of digits
        found = f"text that cannot be read ({str(reason)[:200]})"
    raise error(where, expected="JSON in UTF-8", found=found, remedy=remedy)


@dataclass(frozen=True)
class Field:
    """A value inside a parsed document, with the way that led to it."""

    file: str
    """The document, as a message should call it."""
    path: str
    """Dotted, empty for the document itself."""
    value: object
    error: type[SteeringError] = BundleError
    remedy: str = DAMAGED

    @property
    def where(self) -> str:
        return f"{self.file}: {self.path}" if self.path else self.file

    def refuse(self, expected: str, found: str | None = None, remedy: str | None = None) -> NoReturn:
        raise self.error(
            self.where,
            expected=expected,
            found=shown(self.value) if found is None else found,
            remedy=self.remedy if remedy is None else remedy,
        )

    def at(self, name: str, value: object) -> Field:
        path = f"{self.path}.{plain(name)}" if self.path else plain(name)
        return Field(self.file, path, value, self.error, self.remedy)

    def mapping(self) -> dict[str, Field]:
        """An object whose keys are free to choose."""
        value = self.value
        if not isinstance(value, dict):
            self.refuse("an object {...}")
        return {name: self.at(name, member) for name, member in cast("dict[str, object]", value).items()}

    def record(self, required: str, optional: str = "") -> dict[str, Field]:
        """An object with these keys (names separated by spaces) and no other."""
        fields = self.mapping()
        for name in required.split():
            if name not in fields:
                self.refuse(f"the key {name!r}", f"only {listed(fields) or 'nothing'}")
        known = {*required.split(), *optional.split()}
        for name in fields:
            if name not in known:
                self.at(name, fields[name].value).refuse(
                    f"only the keys {', '.join(sorted(known))}",
                    f"the key {shown(name)}",
                    "Update SteerDiT if the file is newer than it; otherwise remove the key.",
                )
        return fields

    def items(self) -> Iterator[Field]:
        """The members of an array."""
        value = self.value
        if not isinstance(value, list):
            self.refuse("an array [...]")
        for position, member in enumerate(cast("list[object]", value)):
            yield Field(self.file, f"{self.path}[{position}]", member, self.error, self.remedy)

    def text(self, *, longest: int = 1000) -> str:
        """A non-empty, printable, stripped string."""
        value = self.value
        if not isinstance(value, str) or not value or value != value.strip() or len(value) > longest:
            self.refuse(f"a non-empty text of at most {longest} characters, without spaces around it")
        if not value.isprintable():  # also keeps lone surrogates out, which no file or terminal can take
            self.refuse("printable characters")
        return value

    def matching(self, pattern: re.Pattern[str], expected: str) -> str:
        value = self.text()
        if not pattern.fullmatch(value):
            self.refuse(expected)
        return value

    def one_of(self, choices: Mapping[str, object] | tuple[str, ...], remedy: str | None = None) -> str:
        value = self.value
        if not isinstance(value, str) or value not in choices:
            self.refuse(" or ".join(repr(choice) for choice in choices), remedy=remedy)
        return value

    def integer(self, lowest: int, highest: int | None = None) -> int:
        value = self.value
        bounds = f"at least {lowest}" if highest is None else f"{lowest} to {highest}"
        if type(value) is not int or value < lowest or (highest is not None and value > highest):
            self.refuse(f"a whole number, {bounds}")
        return value

    def number(self, lowest: float, highest: float = math.inf) -> float:
        """A finite number within bounds, both included."""
        value = self.value
        bounds = f"at least {lowest:g}" if highest == math.inf else f"{lowest:g} to {highest:g}"
        if type(value) not in (int, float):
            self.refuse(f"a finite number, {bounds}")
        try:
            number = float(cast("int | float", value))
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or not lowest <= number <= highest:
            self.refuse(f"a finite number, {bounds}")
        return number

    def single(self, lowest: float, highest: float = math.inf) -> float:
        """A number that single precision, in which it is used, neither loses nor overflows with."""
        number = self.number(lowest, highest)
        try:
            held = struct.unpack("f", struct.pack("f", number))[0]
        except OverflowError:
            held = math.inf
        if math.isinf(held) or (held == 0.0) != (number == 0.0):
            self.refuse("a number that float32 can hold")
        return number

    def optional(self, read: Callable[[Field], Any]) -> Any:
        """What `read` makes of the field, or None for null."""
        return None if self.value is None else read(self)
