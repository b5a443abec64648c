"""``nox -s bench -- transfer``: what is missing is made, cell by cell, then the report is drawn from what is there.

    nox -s bench -- transfer --budget 120         stop cleanly after two hours; the next call goes on
    nox -s bench -- transfer --architecture flux --skip-curves
    nox -s bench -- transfer --report             only assemble

Several processes may share the work folder (``STEERDIT_TRANSFER``, by default .nox/transfer) where each makes another
architecture; begin with one until directions are made.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..hosting.in_process import boot
from ..store import Budget, Store
from .settings import ARCHITECTURES, Sizes

VARIABLE = "STEERDIT_TRANSFER"
DEFAULT = Path(__file__).parents[2] / ".nox" / "transfer"


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--architecture", choices=ARCHITECTURES, help="one only; both by default")
    ask.add_argument("--budget", type=float, help="minutes after which it stops cleanly")
    ask.add_argument(
        "--n", type=int, default=208, help="pictures a cell; with fewer than 200 nothing is written"
    )
    ask.add_argument("--skip-curves", action="store_true", help="leave the sweep of strengths for later")
    ask.add_argument("--report", action="store_true", help="make nothing, assemble what there is")
    args = ask.parse_args()
    host = boot()
    import torch

    from .run import STAGES, run

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return run(
        Store(Path(os.environ.get(VARIABLE, DEFAULT)), Budget(args.budget)),
        Sizes().with_cells_of(args.n),
        architectures=(args.architecture,) if args.architecture else ARCHITECTURES,
        stages=() if args.report else tuple(STAGES)[: 1 if args.skip_curves else None],
        host=host,
    )


if __name__ == "__main__":
    sys.exit(main())
