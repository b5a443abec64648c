"""`python -m steerdit make-bundle RECIPE.toml`: from a model and lists of prompts to a bundle, without a server.

Stages that are whole are not made again, so the same command goes on after whatever ended it. Launched many times at
once (torchrun, srun, mpirun, Ray Train), or with --shard, each process records its part; a run alone does the rest.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..steering.errors import SteeringError
from . import hosted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help=".toml; see example_recipes and docs/make-a-bundle.md")
    parser.add_argument("--work", type=Path, help="where stages leave their results (default: RECIPE.work)")
    parser.add_argument(
        "--plan", action="store_true", help="only print the stages with their computed disk, memory and time"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="instead of what the recipe says, such as record.batch=8; give it often",
    )
    parser.add_argument("--replace", action="store_true", help="replace another bundle of the same name")
    parser.add_argument(
        "--shard", metavar="I/N", help="only record, part I of N (default: as the launcher says)"
    )
    hosted.add_host_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..training.recipes.making import Cancelled

    terminal = Terminal()
    try:
        return _run(arguments, terminal)
    except (Cancelled, KeyboardInterrupt):
        terminal.close()
        print("Stopped. What is whole is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except SteeringError as refusal:
        terminal.close()
        print(f"error: {refusal}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from ..training.recipes import read_recipe
    from ..training.recipes.lists import read_lists
    from ..training.recipes.making import make_bundle
    from ..training.recipes.sampled import InHost
    from ..training.recipes.work import Work
    from ..training.recordings.launch import shard_named, take_own_device

    recipe = read_recipe(arguments.recipe, _changes(arguments.set, arguments.cpu))
    folder = arguments.work or arguments.recipe.with_suffix(".work")
    if arguments.plan:
        from ..training.recipes.costs import planned

        print(planned(recipe, folder))
        return 0
    shard = shard_named(arguments.shard)
    if not arguments.cpu:
        take_own_device()
    lists = read_lists(recipe)
    work = Work(folder)
    terminal.listen()
    host = InHost(recipe, work, lambda: hosted.boot(arguments))
    bundle = make_bundle(recipe, lists, work, host, terminal, shard=shard, replace=arguments.replace)
    terminal.close()
    if bundle is None:
        print(
            f"Part {shard[0]} of {shard[1]} is recorded. When all are, the command without --shard goes on."
        )
    else:
        print(bundle.path)
    return 0


def _changes(given: Sequence[str], cpu: bool) -> dict[str, str]:
    named = (one.partition("=") for one in given)
    return {**({"machine.device": "cpu"} if cpu else {}), **{name.strip(): value for name, _, value in named}}


class Terminal:
    """Shows a run as lines and a bar; the first Ctrl-C (or a cluster's SIGTERM) asks it to stop, the second ends it."""

    def __init__(self) -> None:
        self.asked = False
        self.bar: Any = None
        self.name = ""

    def listen(self) -> None:
        for name in ("SIGINT", "SIGTERM"):
            signal.signal(getattr(signal, name), self._ask)

    def stage(self, name: str, whole: bool = False) -> None:
        from ..training.recipes.making import Cancelled

        self.close()
        if self.asked:
            raise Cancelled
        self.name = name
        print(f"{name}: {'whole already' if whole else '…'}", flush=True)

    def say(self, text: str) -> None:
        self.close()
        print("\n".join(f"  {line}" for line in text.splitlines()), flush=True)

    def progress(self, done: int, total: int) -> None:
        if self.bar is None:
            from tqdm import tqdm  # comes with huggingface_hub

            self.bar = tqdm(total=total, desc=self.name, file=sys.stderr, leave=False)
        self.bar.total = total
        self.bar.n = done
        self.bar.refresh() if done == total else self.bar.update(0)

    def stopped(self) -> bool:
        return self.asked

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True
        print("\nStopping: what is in hand is put away first.", file=sys.stderr)
