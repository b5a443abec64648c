"""`python -m steerdit COMMAND`: what the nodes offer, for long work and machines without a screen.

Each command lives in a module with `add_arguments(parser)` and `run(arguments) -> int`; only the chosen one
is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    module: str
    """Relative to this package."""
    help: str


COMMANDS: dict[str, Command] = {
    "convert": Command(".delivery.commands.convert", "make a bundle of another project's sparse autoencoder"),
    "direction": Command(
        ".commands.direction", "estimate a direction in a language model and write it as a control vector"
    ),
    "download": Command(
        ".delivery.commands.download", "fetch a bundle by its name in the manifest or from a repository"
    ),
    "export": Command(".commands.export", "write a bundle's sparse autoencoder in SAELens's format"),
    "flow-sites": Command(
        ".commands.flow_sites", "find the attention that tells unsafe content best, for Restrict Flow"
    ),
    "make-bundle": Command(".commands.make_bundle", "make a bundle from a model and prompts, by a recipe"),
    "merge": Command(".commands.merge", "make one recording of the parts of several machines"),
    "record": Command(".commands.record", "record a model's activations for a list of prompts"),
    "thresholds": Command(
        ".commands.thresholds", "calibrate thresholds of a TopK bundle, so that its chosen latents suffice"
    ),
    "train": Command(".commands.train", "train a sparse autoencoder on a recording"),
    "transfer": Command(
        ".commands.transfer", "carry directions from a language model to a generator, as a bundle"
    ),
    "verify": Command(".delivery.commands.verify", "check every byte of bundles and shipped files"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; 2 if the command is not known."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m steerdit",
        description="Steers diffusion transformers: the command line of the SteerDiT pack.",
        epilog="\n".join(f"  {name:<12}{command.help}" for name, command in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do; COMMAND --help says more")
    name: str = parser.parse_args(arguments[:1]).command
    module = import_module(COMMANDS[name].module, package=__package__)
    own = argparse.ArgumentParser(prog=f"python -m steerdit {name}", description=COMMANDS[name].help)
    module.add_arguments(own)
    status: int = module.run(own.parse_args(arguments[1:]))
    return status


if __name__ == "__main__":
    sys.exit(main())
