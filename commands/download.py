"""`python -m steerdit download NAME` or `REPOSITORY FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..delivery.download import download
from ..delivery.manifest import PACK, HubFile, read_manifest
from ..steering.errors import DownloadCancelled, SteeringError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", help="a name in the manifest, or a repository such as owner/name")
    parser.add_argument(
        "file", nargs="?", help="the file in the repository, such as bundles/flux.safetensors"
    )
    parser.add_argument("--list", action="store_true", help="list the manifest's names and stop")
    parser.add_argument("--to", type=Path, default=default_folder(), help="the folder (default: %(default)s)")
    parser.add_argument("--revision", default="main", help="commit, tag or branch of the repository")
    parser.add_argument("--sha256", help="what the file must be; the manifest's names have their own")


def default_folder() -> Path:
    """models/steering of the ComfyUI that this pack is installed in; of the current folder if it is in none."""
    host = PACK.parents[1] if PACK.parent.name == "custom_nodes" else Path()
    return host / "models" / "steering"


def run(arguments: argparse.Namespace) -> int:
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("\nStopped. Start it again to go on from there.", file=sys.stderr)
        return 130
    except DownloadCancelled as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        for weight in read_manifest().weights:
            size = f"{weight.bytes / 1e6:.1f} MB"
            print(f"{weight.name:<28}{weight.kind:<14}{size:>11}  {weight.license:<12}{weight.description}")
        return 0
    if not arguments.what:
        print("error: give a name (see --list) or a repository and a file", file=sys.stderr)
        return 2
    what = (
        HubFile(arguments.what, arguments.file, arguments.revision)
        if arguments.file
        else read_manifest().find(arguments.what)
    )
    from tqdm import tqdm  # comes with huggingface_hub

    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=arguments.file or arguments.what) as bar:

        def progress(there: int, total: int | None) -> None:
            if bar.n == 0 and there:
                bar.initial = there  # bytes of an earlier attempt do not count into the speed
            bar.total = total
            bar.n = there
            bar.update(0)

        path = download(what, arguments.to, sha256=arguments.sha256, progress=progress)
    print(path)
    return 0
