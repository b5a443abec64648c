"""The little language in which people choose sites and categories: `all`, `a, b`, `-c`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from .errors import SteeringError

T = TypeVar("T")

ALL = ("all", "default", "*")
NONE = "none"


def select(
    expression: str, available: Sequence[T], matches: Callable[[str, T], bool], what: str
) -> tuple[T, ...]:
    """Those of `available` that a list of terms names, in their order.

    Terms are separated by commas and read from left to right; a leading `-` takes away, and a list that
    begins with one starts from all. Nothing, `all` and `default` mean all, `none` means none.

    Args:
        matches: whether a pattern names an item.
        what: `sites` or `categories`, for messages.

    Raises:
        SteeringError: a term names none of `available`.
    """
    chosen: set[int] = set()
    terms = [term for term in map(str.strip, expression.split(",")) if term] or ["all"]
    for position, term in enumerate(terms):
        takes_away = term.startswith("-")
        pattern = term[1:].strip() if takes_away else term
        if position == 0 and takes_away:
            chosen = set(range(len(available)))
        if pattern == NONE:
            continue
        meant = {at for at, item in enumerate(available) if pattern in ALL or matches(pattern, item)}
        if not meant and pattern not in ALL:
            raise SteeringError(
                f"{what}: {term!r}",
                expected="one of " + (", ".join(map(str, available)) or "nothing: there is none"),
                found="none that matches",
                remedy=f"Name {what} that are there, or `all`.",
            )
        chosen = chosen - meant if takes_away else chosen | meant
    return tuple(item for at, item in enumerate(available) if at in chosen)
