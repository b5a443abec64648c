"""Places in a diffusion transformer whose activation can be read or changed, and how people name them.

A site is written `double.18.image`: block kind, block index, stream. The conditioning that enters the model
is the one site without an index, `text`. `single.10.attention` is no stream of tokens but the block's joint attention,
whose flow can be restricted (steering/flow). A selection of sites is written as a list of patterns,
`double.*.image, single.30-37.*, -text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import total_ordering

from .errors import SteeringError
from .selection import select

BLOCKS = ("text", "double", "joint", "single")  # in the order in which a forward pass meets them
STREAMS = ("text", "image", "reference")
ATTENTION = "attention"
_ENDINGS = (ATTENTION, *STREAMS)  # in the order in which a block meets them

_NAME = re.compile(r"(double|joint|single)\.(0|[1-9][0-9]{0,5})\.(text|image|reference|attention)")


@total_ordering
@dataclass(frozen=True)
class Site:
    """One named activation. `index` and `stream` are None exactly for the site `text`.

    Sites sort by depth: the conditioning first, then double or joint blocks, then single blocks.
    """

    block: str
    index: int | None = None
    stream: str | None = None

    @classmethod
    def parse(cls, name: str) -> Site:
        """The site of that exact name; `str(site)` gives the name back.

        Raises:
            SteeringError: the name is not `text` and not `<block>.<index>.<stream>`.
        """
        if name == "text":
            return cls("text")
        if match := _NAME.fullmatch(name):
            return cls(match[1], int(match[2]), match[3])
        raise SteeringError(
            f"site {name[:60]!r}",
            expected="`text` or `<block>.<index>.<stream>` with block double, joint or single and stream text, image, "
            "reference or attention",
            found=repr(name[:60]),
            remedy="Write the site like `double.18.image`.",
        )

    @property
    def is_attention(self) -> bool:
        """Whether it names a joint attention rather than the tokens of a stream."""
        return self.stream == ATTENTION

    @property
    def depth(self) -> tuple[int, int, int]:
        """A key that sorts sites in the order of a forward pass."""
        if self.index is None or self.stream is None:
            return BLOCKS.index(self.block), -1, -1
        return BLOCKS.index(self.block), self.index, _ENDINGS.index(self.stream)

    def __lt__(self, other: Site) -> bool:
        return self.depth < other.depth

    def __str__(self) -> str:
        return self.block if self.index is None else f"{self.block}.{self.index}.{self.stream}"


def select_sites(expression: str, available: Iterable[Site]) -> tuple[Site, ...]:
    """The sites among `available` that the expression names, in the order of a forward pass.

    Besides the terms of every selection (see selection.py), a term is a pattern of up to three parts,
    `<block>.<index>.<stream>`; a part that is missing or `*` matches anything, `1+2` lists and `0-3` spans.

    Raises:
        SteeringError: a term cannot be read, or matches none of `available`.
    """
    return select(expression, sorted(set(available)), _matches, "sites")


def select_categories(expression: str, available: Iterable[str]) -> tuple[str, ...]:
    """The risk categories among `available` that the expression names; see selection.py."""
    return select(expression, tuple(available), str.__eq__, "categories")


def _matches(pattern: str, site: Site) -> bool:
    parts = pattern.split(".")
    if len(parts) > 3:
        raise _unreadable(pattern)
    block, index, stream = parts + ["*"] * (3 - len(parts))
    return (
        site.block in _words(block, BLOCKS, pattern)
        and (index == "*" or any(site.index in span for span in _spans(index, pattern)))
        and (stream == "*" or site.stream in _words(stream, _ENDINGS, pattern))
    )


def _words(part: str, known: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    if part == "*":
        return known
    words = tuple(part.split("+"))
    if not set(words) <= set(known):
        raise _unreadable(pattern)
    return words


def _spans(part: str, pattern: str) -> Iterator[range]:
    for piece in part.split("+"):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", piece)
        if match is None:
            raise _unreadable(pattern)
        yield range(int(match[1]), int(match[2] or match[1]) + 1)


def _unreadable(pattern: str) -> SteeringError:
    return SteeringError(
        f"sites: {pattern!r}",
        expected="`<block>.<index>.<stream>`, each part `*` or a list joined by `+`, the index also a span `0-3`",
        found=repr(pattern),
        remedy="Write for example `single.0-3.image`, `double.1+2.*` or `-text`.",
    )
