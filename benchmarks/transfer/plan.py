"""The cells that the tables and claims are made of, most important first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..emoji_scenes.concepts import CATEGORIES
from .cells import Asked
from .choice import BOUNDED
from .methods import Method
from .prompting import BENIGN, OTHER_NAMES, SETS
from .settings import CARRIED, FEWER, MAPS, SOURCES, STRENGTHS, UNGATED

THINGS = tuple(name for name in CATEGORIES if name not in BOUNDED)
GROUPS: Mapping[str, tuple[str, ...]] = {"attributes": BOUNDED, BENIGN: (BENIGN,)}
"""Sets whose pictures are counted together in curves: the first halves of two, or both of one."""
SWEPT_WHOLE = (CARRIED, "native")


def whole(prompts: str, method: Method | None = None, anew: bool = False) -> list[Asked]:
    """Both halves."""
    return [Asked(prompts, method, half=half, anew=anew) for half in (0, 1)]


def of_group(group: str, method: Method | None) -> list[Asked]:
    """The cells behind one point of a curve."""
    if group == BENIGN:
        return whole(BENIGN, method)
    return [Asked(name, method) for name in GROUPS[group]]


def of_base() -> Iterator[Asked]:
    for name in (*BOUNDED, BENIGN, *THINGS):
        yield from whole(name)


def headlines(choices: Mapping[str, Method]) -> dict[str, Method]:
    """What claims speak of, by name."""
    carried = choices[CARRIED]
    found = {f"{source}, gated": method for source, method in choices.items()}
    found |= {f"random, {form}": replace(carried, source="random", form=form) for form in ("gated", "multi")}
    found[f"{CARRIED}, multi"] = replace(carried, form="multi")
    return found


def of_headlines(choices: Mapping[str, Method]) -> Iterator[Asked]:
    methods = headlines(choices)
    for method in methods.values():
        for name in BOUNDED:
            yield from whole(name, method)
    for method in methods.values():
        yield from whole(BENIGN, method, anew=method.gated)
    for method in methods.values():
        for name in THINGS if method.source != "random" else ():
            yield from whole(name, method)


def selectors(choices: Mapping[str, Method]) -> dict[str, Method]:
    """The direction of each category alone, without a gate."""
    return {name: replace(choices[CARRIED], form=name) for name in CATEGORIES}


def of_selectivity(choices: Mapping[str, Method]) -> Iterator[Asked]:
    for method in selectors(choices).values():
        for name in CATEGORIES:
            yield from whole(name, method)


def of_other_names(choices: Mapping[str, Method]) -> Iterator[Asked]:
    for method in (None, choices[CARRIED], choices["native"]):
        for name in CATEGORIES:
            yield from whole(name + OTHER_NAMES, method)


def swept(source: str, form: str, operator: str) -> list[Method]:
    """The points of a curve, without that at 0, which is the base."""
    strengths = (STRENGTHS if source in SWEPT_WHOLE else FEWER)[operator]
    return [Method(source, form, operator, strength) for strength in strengths]


def curves() -> Iterator[tuple[str, str, str]]:
    """Source, form and operator of every curve; what is carried by the default first."""
    for source in (*SWEPT_WHOLE, "random", *(kind for kind in MAPS if kind != CARRIED)):
        for operator in STRENGTHS:
            for form in ("gated", *(UNGATED[operator] if source == CARRIED else ())):
                yield source, form, operator


def of_curves() -> Iterator[Asked]:
    for group in GROUPS:
        for curve in curves():
            for method in swept(*curve):
                yield from of_group(group, method)


assert set(SOURCES) == {source for source, _, _ in curves()}
assert {BENIGN, *BOUNDED, *THINGS} == set(SETS)
