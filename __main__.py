"""`python -m steerdit COMMAND`: what the nodes offer, for long work and machines without a screen.

Only the chosen command's module is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "convert": "make a bundle of another project's sparse autoencoder",
    "direction": "estimate a direction in a language model and write it as a control vector",
    "download": "fetch a bundle by its name in the manifest or from a repository",
    "export": "write a bundle's sparse autoencoder in SAELens's format",
    "flow-sites": "find the attention that tells unsafe content best, for Restrict Flow",
    "make-bundle": "make a bundle from a model and prompts, by a recipe",
    "merge": "make one recording of the parts of several machines",
    "record": "record a model's activations for a list of prompts",
    "thresholds": "calibrate thresholds of a TopK bundle, so that its chosen latents suffice",
    "train": "train a sparse autoencoder on a recording",
    "transfer": "carry directions from a language model to a generator, as a bundle",
    "verify": "check every byte of bundles and shipped files",
}
"""What each says of itself; its module in `commands` has its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; 2 if the command is not known."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m steerdit",
        description="Steers diffusion transformers: the command line of the SteerDiT pack.",
        epilog="\n".join(f"  {name:<12}{help}" for name, help in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do; COMMAND --help says more")
    name: str = parser.parse_args(arguments[:1]).command
    module = import_module(f".commands.{name.replace('-', '_')}", package=__package__)
    own = argparse.ArgumentParser(prog=f"python -m steerdit {name}", description=COMMANDS[name])
    module.add_arguments(own)
    status: int = module.run(own.parse_args(arguments[1:]))
    return status


if __name__ == "__main__":
    sys.exit(main())
