"""Whether the paths of the kernels agree with the reference, and what they do at the edge."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import Any

from ..results import Claim, at_most
from . import edge_files, edges, random_calls
from .process import PATHS, faults_of

SHOWN = 10
"""Faults that go into the results; their number is the claim."""


def paths() -> tuple[str, ...]:
    """Those that this machine can run, on its CPU."""
    return PATHS if find_spec("triton") else PATHS[:-1]


def claims_e(rows: dict[str, Any], calls: int) -> dict[str, Claim]:
    """Random calls: what each path computes otherwise than the reference."""
    claims: dict[str, Claim] = {}
    rows["e"] = {}
    for path in paths()[1:]:
        count, faults = faults_of(random_calls.__name__, path, str(calls))
        rows["e"][path] = {"calls": count, "faults": faults[:SHOWN]}
        claims[f"e.{path}.wrong"] = at_most(len(faults), 0, count)
    return claims


def claims_g(rows: dict[str, Any]) -> dict[str, Claim]:
    """Calls and files at the edge: how many are neither refused by name nor right."""
    checked, wrong = Counter[str](), list[str]()
    for path in paths():
        checked.update(case.group for case in edges.cases(path))
        wrong += faults_of(edges.__name__, path)[1]
    for case in edge_files.cases():
        checked[case.group] += 1
        wrong += filter(None, [edges.said(case)])
    failed = Counter(fault.split(":")[0] for fault in wrong)
    rows["g"] = {"checked": dict(checked), "faults": wrong[:SHOWN]}
    return {f"g.{group}.wrong": at_most(failed[group], 0, count) for group, count in checked.items()}
