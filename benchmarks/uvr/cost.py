"""e: what restricting the flow costs beside ordinary attention, at FLUX's size and on one thread.

    plain          the attention that the host would use
    idle           an attention that localises and finds nothing
    acting         core and ring restricted, at any attention after the one that localises; both forms, both ways
    editing        the flow from a reference as large as the picture restricted, in a sequence as long
    finding        an attention that localises, finds something and restricts it at once
    materialised   the published form, written plainly: the whole matrix of weights, times λ

Every ratio is of medians from the same rounds. Ratios differ by what the processor multiplies fast, so the report keeps
one measurement for each kind of processor. `python -m steerdit.benchmarks.uvr.cost` shows that it runs, at small sizes
or with fewer heads; `nox -s bench -- uvr --stage cost` measures.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...steering.flow.groups import Flow, Group, Weights, groups_of
from ...steering.flow.layout import FlowLayout, TokenGrid
from ...steering.flow.localise import around
from ...steering.flow.modifier import RestrictFlow
from ...steering.flow.noise import Noise
from ...steering.flow.restrict import Way
from ...steering.flow.score import Detector, ScoreKind
from ...steering.flow.step import FlowState, FlowStep
from ...steering.schedules import Schedule
from ...steering.sites import Site
from .. import processor
from ..results import Claim, amend, at_least, at_most, commit, read, told, versions
from ..timing import Timing, beside_each_other, described, ratio

REVISION = 1
"""Part of a measurement's stamp: raise it where what is timed here changes."""
FLOW = Path(__file__).parents[2] / "steering" / "flow"
SEED = 11
LOOKS, ACTS = Site.parse("single.10.attention"), Site.parse("single.11.attention")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDS = 15
"""A float32 round takes most of a minute where it is multiplied in vectors."""
ATTENTIONS = 57
"""Of FLUX.1: one of them localises."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `--tiny` only shows that it runs."""

    text: int = 512
    grid: tuple[int, int] = (64, 64)
    heads: int = 24
    width: int = 128
    rounds: int = ROUNDS
    core: tuple[int, int] = (20, 20)
    """A tenth of the picture."""


TINY = Sizes(32, (16, 16), 2, 32, 3, (5, 5))


@dataclass(frozen=True)
class Case:
    """One attention, and a restriction that finds the core, or finds nothing."""

    q: Tensor
    k: Tensor
    v: Tensor
    layout: FlowLayout
    core: Tensor

    @classmethod
    def drawn(cls, sizes: Sizes, dtype: torch.dtype, *, editing: bool = False) -> Case:
        """Random queries, keys and values; for editing half of the picture's tokens are a reference's."""
        height, width = sizes.grid[0] // (1 + editing), sizes.grid[1]
        image = TokenGrid(sizes.text, height, width)
        references = (TokenGrid(image.stop, height, width),) if editing else ()
        layout = FlowLayout(slice(0, sizes.text), image, references)
        g = torch.Generator().manual_seed(SEED)
        q, k, v = (
            torch.randn(1, sizes.heads, layout.tokens, sizes.width, generator=g).to(dtype) for _ in range(3)
        )
        core = torch.zeros(height, width, dtype=torch.bool)
        core[4 : 4 + sizes.core[0], 4 : 4 + sizes.core[1]] = True
        return cls(q, k, v, layout, core)

    def restriction(self, **changes: Any) -> RestrictFlow:
        """One that looks at LOOKS and, in a random picture, finds nothing."""
        shape = 1, self.q.shape[1], self.q.shape[3]
        nothing = Detector(
            "any", ScoreKind.WHITENED, 1e9, torch.ones(shape) / self.q.shape[1], torch.zeros(shape[:2])
        )
        flow = RestrictFlow(LOOKS, (nothing,), active=Schedule(), noise=Noise(0.0))
        return replace(flow, **changes)

    def visit(self, restriction: RestrictFlow, site: Site, known: bool) -> Callable[[], Tensor]:
        """One visit of an attention, where the picture's region is known or not."""
        state = FlowState({0: around(self.core, 1)} if known else {})

        def run() -> Tensor:
            step = FlowStep(site, 1.0, lambda percent: 1 - percent, (0,), self.layout, state, seed=SEED)
            return restriction(attend, self.q, self.k, self.v, step)

        return run

    def groups(self, flow: Flow) -> tuple[Group, ...]:
        return groups_of(self.layout, around(self.core, 1), Weights(), flow, self.layout.tokens)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """As the host's attention_pytorch."""
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(q.shape[0], -1, q.shape[1] * q.shape[3])


def materialised(case: Case, flow: Flow) -> Callable[[], Tensor]:
    """Every weight of every head in memory, as the published code has it, λ a matrix as well."""

    def run() -> Tensor:
        factors = torch.ones(case.layout.tokens, case.layout.tokens, dtype=case.q.dtype)
        for group in case.groups(flow):
            factors[group.rows] = group.weights.to(case.q.dtype)
        weights = (case.q @ case.k.mT / case.q.shape[-1] ** 0.5).softmax(-1)
        weights = weights * factors
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ case.v).transpose(1, 2).flatten(2)

    return run


def agreement(case: Case, run: Callable[[], Tensor], flow: Flow) -> float:
    """The largest difference between a fast form and the materialised one."""
    return float((run().float() - materialised(case, flow)().float()).abs().max())


def columns(case: Case, edited: Case) -> dict[str, Callable[[], Tensor]]:
    """What is timed."""
    quiet = case.restriction()

    def acting(**changes: Any) -> Callable[[], Tensor]:
        return case.visit(case.restriction(**changes), ACTS, True)

    found: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: attend(case.q, case.k, case.v, None),
        "idle": case.visit(quiet, LOOKS, False),
        "acting": acting(),
        "acting_unrenormalised": acting(renormalise=False),
        "acting_dimensions": acting(way=Way.DIMENSIONS),
        "acting_noise": acting(noise=Noise()),
        "editing": edited.visit(edited.restriction(flow=Flow.REFERENCE), ACTS, True),
        # It finds nothing new, and restricts what is known.
        "finding": case.visit(quiet, LOOKS, True),
        "materialised": materialised(case, Flow.CONTENT),
    }
    return found


def row_of(sizes: Sizes, dtype: str) -> dict[str, Any]:
    """The timings of all columns in one dtype."""
    case, edited = (Case.drawn(sizes, DTYPES[dtype], editing=editing) for editing in (False, True))
    runs = columns(case, edited)
    timings = beside_each_other(runs, sizes.rounds)
    row = described(
        timings,
        tokens=case.layout.tokens,
        heads=sizes.heads,
        width=sizes.width,
        restricted=sum(len(group.rows) for group in case.groups(Flow.CONTENT)),
        differs=agreement(case, runs["acting"], Flow.CONTENT),
        editing_differs=agreement(edited, runs["editing"], Flow.REFERENCE),
    )
    row["over_plain"] = {column: ratio(timings, column, "plain") for column in runs}
    return row


ACTING = ("acting", "acting_unrenormalised", "editing")
"""Columns in which a restriction acts on every query that it has to, in the forms of the method."""


def claims_of(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, Claim]:
    """Cost of restricting, of not restricting, and of the published form.

    Args:
        measurements: by kind of processor, as `measured` gives them.
    """
    claims: dict[str, Claim] = {}
    for kind, measurement in measurements.items():
        for dtype, row in measurement["rows"].items():
            claims |= {f"e.{kind}.{dtype}.{name}": claim for name, claim in _of_row(row).items()}
    return claims


def _of_row(row: Mapping[str, Any]) -> dict[str, Claim]:
    timings = {name: Timing(**column) for name, column in row["columns"].items()}
    n = timings["plain"].rounds
    return {
        **{name: at_most(ratio(timings, name, "plain"), 1.10, n) for name in ACTING},
        "acting.step": at_most(_step(timings, "acting", "finding"), 1.10, n),
        "idle": at_most(ratio(timings, "idle", "plain"), 1.01, n),
        "idle.step": at_most(_step(timings, "plain", "idle"), 1.01, n),
        "materialised.time": at_least(ratio(timings, "materialised", "plain"), 4, n),
        "materialised.memory": at_least(_memory(timings), 20, 1),
    }


def measured(sizes: Sizes, dtypes: Sequence[str] = tuple(DTYPES)) -> dict[str, dict[str, Any]]:
    """One measurement, under the kind of this processor."""
    # Asked first: the files may change while it takes its minutes.
    made_by = {"stamp": _stamp(sizes), "versions": versions("torch"), "commit": commit()}
    with torch.no_grad():
        rows = {dtype: row_of(sizes, dtype) for dtype in dtypes}
    return {processor.kind(): {"processor": processor.name(), "rows": rows, **made_by}}


def kept(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a report has of the code as it is now, by kind of processor."""
    stamp = _stamp(Sizes())
    return {kind: one for kind, one in report.get("cost", {}).items() if one.get("stamp") == stamp}


def update(name: str) -> int:
    """Measures, and takes it into the report of that name → 0 where all claims of this kind of processor hold."""
    report = read(name)
    if not report.get("claims"):
        print(f"There is no report {name} that this could be taken into: run the other stages first.")
        return 1
    earlier = kept(report)
    found = measured(Sizes())
    all_kinds = earlier | found
    print(amend(name, "e", claims_of(all_kinds), cost=all_kinds))
    return 0 if told(claims_of(found)) else 1


def _stamp(sizes: Sizes) -> str:
    """A hash of the restriction's code and of what is timed: a measurement of anything else is not kept."""
    of = hashlib.sha256(repr((REVISION, replace(sizes, rounds=0))).encode())
    for file in sorted(FLOW.glob("*.py")):
        of.update(file.read_bytes())
    return of.hexdigest()[:16]


def _step(timings: Mapping[str, Timing], each: str, looking: str) -> float:
    """All attentions of one step, of which one localises as well, over as many plain ones.

    Where nothing was found, the host takes no detour but at the one that localises.
    """
    step = (ATTENTIONS - 1) * timings[each].median + timings[looking].median
    return step / (ATTENTIONS * timings["plain"].median)


def _memory(timings: Mapping[str, Timing]) -> float:
    """Peak memory of the published form over that of plain attention; NaN where the system does not say."""
    whole, plain = timings["materialised"].peak_bytes, timings["plain"].peak_bytes
    return whole / max(plain, 1) if whole is not None and plain is not None else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a trial; writes nothing."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    ask.add_argument("--heads", type=int, default=Sizes.heads, help="fewer take less time")
    ask.add_argument("--rounds", type=int, default=Sizes.rounds)
    ask.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    args = ask.parse_args(arguments)
    sizes = TINY if args.tiny else Sizes(heads=args.heads, rounds=args.rounds)
    torch.set_num_threads(1)
    found = measured(sizes, args.dtype)
    for dtype, row in found[processor.kind()]["rows"].items():
        for name, column in row["columns"].items():
            peak = column["peak_bytes"]
            print(
                f"{dtype}  {name:<22} {column['median']:8.3f} s  {row['over_plain'][name]:6.3f} x plain  "
                f"{'?' if peak is None else peak >> 20:>6} MiB"
            )
        print(f"{dtype}  differs {row['differs']:.2g}, editing {row['editing_differs']:.2g}")
    return 0 if told(claims_of(found), trial=args.tiny) or args.tiny else 1


if __name__ == "__main__":
    sys.exit(main())
