"""``nox -s bench -- uvr``: what is missing is made, cell by cell, then the report is drawn from what is there.

    nox -s bench -- uvr --budget 60               stop cleanly after an hour; the next call goes on
    nox -s bench -- uvr --stage generation
    nox -s bench -- uvr --stage cost              claims e, measured anew: with nothing else on the machine
    nox -s bench -- uvr --report                  only assemble

Without --stage all are made but cost, of which the report keeps one measurement for each kind of processor. The work
folder is ``STEERDIT_UVR``, by default .nox/uvr.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..hosting.in_process import boot
from ..store import Budget, Store
from .settings import NAME, Sizes

ALONE = "cost"
"""The stage that is measured with nothing else on the machine."""
VARIABLE = "STEERDIT_UVR"
DEFAULT = Path(__file__).parents[2] / ".nox" / "uvr"


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--stage", nargs="+", help="which; see below")
    ask.add_argument("--budget", type=float, help="minutes after which it stops cleanly, between cells")
    ask.add_argument(
        "--n", type=int, default=Sizes.n, help="pictures a cell; with fewer than 200 nothing is written"
    )
    ask.add_argument("--report", action="store_true", help="make nothing, assemble what there is")
    args = ask.parse_args()
    if ALONE in (args.stage or ()):  # it needs no host
        if args.stage != [ALONE] or args.report or args.budget is not None or args.n != Sizes.n:
            ask.error(
                f"{ALONE} is measured with nothing else, and whole: --stage {ALONE} and no other option"
            )
        import torch

        from .cost import update

        torch.set_num_threads(1)
        return update(NAME)
    host = boot()
    import torch

    from .run import STAGES, run

    stages = args.stage or list(STAGES)
    if unknown := set(stages) - set(STAGES):
        ask.error(f"there is no stage {', '.join(sorted(unknown))}; known: {', '.join([*STAGES, ALONE])}")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return run(
        Store(Path(os.environ.get(VARIABLE, DEFAULT)), Budget(args.budget)),
        Sizes().with_cells_of(args.n),
        stages=() if args.report else stages,
        host=host,
    )


if __name__ == "__main__":
    sys.exit(main())
