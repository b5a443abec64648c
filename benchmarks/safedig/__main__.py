"""``nox -s bench -- safedig``: what is missing is made, cell by cell, then the report is drawn from what is there.

    nox -s bench -- safedig --budget 120          stop cleanly after two hours; the next call goes on
    nox -s bench -- safedig --architecture flux --rotation weapons
    nox -s bench -- safedig --report              only assemble

Several processes may share the work folder (``STEERDIT_SAFEDIG``, by default .nox/safedig) where they do not make the
same rotation of the same architecture; begin with one until its recordings are made.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..hosting.in_process import boot
from ..store import Budget, Store
from .settings import ARCHITECTURES, JUDGE_SEED, VALIDATE_SEED, Sizes

VARIABLE = "STEERDIT_SAFEDIG"
DEFAULT = Path(__file__).parents[2] / ".nox" / "safedig"


def main() -> int:
    from ..emoji_scenes.concepts import CATEGORIES

    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--architecture", choices=ARCHITECTURES, help="one only; both by default")
    ask.add_argument("--rotation", choices=CATEGORIES, help="the category that is held out; all by default")
    ask.add_argument("--budget", type=float, help="minutes after which it stops cleanly")
    ask.add_argument(
        "--n", type=int, default=208, help="pictures a cell; with fewer than 200 nothing is written"
    )
    ask.add_argument(
        "--validate",
        action="store_true",
        help="judge by the prompts that settings are chosen on; nothing is written",
    )
    ask.add_argument("--report", action="store_true", help="make nothing, assemble what there is")
    args = ask.parse_args()
    host = boot()
    import torch

    from .run import run

    torch.set_num_threads(1)  # so that seconds mean the same everywhere
    torch.set_grad_enabled(False)
    return run(
        Store(Path(os.environ.get(VARIABLE, DEFAULT)), Budget(args.budget)),
        Sizes().with_cells_of(args.n).judged_on(VALIDATE_SEED if args.validate else JUDGE_SEED),
        architectures=() if args.report else (args.architecture,) if args.architecture else ARCHITECTURES,
        targets=(args.rotation,) if args.rotation else CATEGORIES,
        host=host,
    )


if __name__ == "__main__":
    sys.exit(main())
