"""`python -m steerdit verify [FILE ...]`: is every byte what it should be?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..delivery.manifest import PACK, Manifest, Shipped, read_manifest
from ..delivery.transport import Digest
from ..steering.errors import BundleError, SteeringError
from ..steering.formats.container import read_container


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="*", type=Path, help="bundles, or files of the manifest; none: all shipped ones"
    )


def run(arguments: argparse.Namespace) -> int:
    failures = 0
    try:
        manifest = read_manifest()
        files: list[Path] = arguments.files or [
            PACK / weight.source.path for weight in manifest.weights if isinstance(weight.source, Shipped)
        ]
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    for file in files:
        try:
            print(f"{file}: {_verify(file, manifest)}")
        except SteeringError as refusal:
            print(f"error: {refusal}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


def _verify(file: Path, manifest: Manifest) -> str:
    """What is proven of a file."""
    container = read_container(file)
    proven: list[str] = []
    entry = next((weight for weight in manifest.weights if weight.file == file.name), None)
    if entry is not None:
        promised = Digest("sha256", entry.sha256)
        found = promised.of(file)
        if found != promised:
            raise BundleError(
                str(file),
                expected=f"{promised}, as the manifest says of {entry.name}",
                found=str(found),
                remedy="Fetch it again with `python -m steerdit download`.",
            )
        proven.append(f"is {entry.name} of the manifest")
    from ..steering.formats.bundle import KEY, verify  # torch comes with it, so only now

    if KEY in container.metadata:
        bundle = verify(file)
        proven.append(
            f"is the {bundle.family} bundle {bundle.name!r}, every hash right and every number finite"
        )
    if not proven:
        raise BundleError(
            str(file),
            expected="a bundle, or a file that the manifest lists",
            found=f"a sound safetensors file of {len(container.tensors)} tensors that is neither",
            remedy="Nothing more can be proven of it.",
        )
    return " and ".join(proven)
