"""`python -m steerdit export BUNDLE FOLDER --site SITE`: a bundle's dictionary in SAELens's format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..steering.errors import SteeringError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, help="where cfg.json and sae_weights.safetensors go")
    parser.add_argument("--site", default="", help="which, where the bundle has several")


def run(arguments: argparse.Namespace) -> int:
    from ..steering.formats.bundle import open_bundle
    from ..steering.sites import Site
    from ..training.dictionaries.export import export_saelens

    try:
        bundle = open_bundle(arguments.bundle)
        if not arguments.site and len(bundle.sites) != 1:
            raise SteeringError(
                str(arguments.bundle),
                expected="one site",
                found=", ".join(map(str, bundle.sites)),
                remedy="Say which with --site.",
            )
        site = Site.parse(arguments.site) if arguments.site else next(iter(bundle.sites))
        print(export_saelens(bundle, site, arguments.folder))
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    return 0
