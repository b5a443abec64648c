"""`python -m steerdit merge OUT PART ...`: one recording of the parts that several machines have made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..steering.errors import SteeringError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, help="the folder of the whole recording; may be one of the parts")
    parser.add_argument("parts", type=Path, nargs="+", help="folders that `record --shard` wrote")


def run(arguments: argparse.Namespace) -> int:
    from ..training.recordings import merge

    try:
        print(f"{arguments.out}\n{merge(arguments.parts, arguments.out).summary()}")
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    return 0
