"""`python -m steerdit thresholds BUNDLE RECORDING OUT`: a TopK bundle with thresholds in place of its competition."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..steering.errors import SteeringError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="with a TopK dictionary")
    parser.add_argument("recording", type=Path, help="of the model and sites that the bundle is of")
    parser.add_argument("out", type=Path, help="the bundle with thresholds; may be the first one")
    parser.add_argument("--sites", default="all", help="such as double.*.image (default: all TopK sites)")
    parser.add_argument(
        "--tokens", type=int, default=20_000, help="of each site, drawn at random (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    from ..steering.formats.bundle import open_bundle
    from ..steering.sae import SelectedLatents
    from ..steering.sites import Site, select_sites
    from ..training.dictionaries.topk_thresholds import Thresholds, thresholds_at, write_thresholds
    from ..training.recordings import open_recording

    try:
        bundle, recording = open_bundle(arguments.bundle), open_recording(arguments.recording)
        competing = [site for site, sae in bundle.sites.items() if sae.activation == "topk"]
        if not competing:
            raise SteeringError(
                str(arguments.bundle),
                expected="a TopK dictionary",
                found=", ".join(sae.activation for sae in bundle.sites.values()),
                remedy="It needs no thresholds: each of its latents decides by itself already.",
            )
        found: dict[Site, Thresholds] = {}
        for site in select_sites(arguments.sites, competing):
            sae = bundle.sites[site]
            if recording.sites.get(site) not in (None, sae.width):
                raise SteeringError(
                    f"{arguments.recording}: {site}",
                    expected=f"activations of width {sae.width}, as the bundle says",
                    found=f"{recording.sites[site]}",
                    remedy="Record the model that the bundle is of.",
                )
            tokens = recording.read(site, limit=arguments.tokens, seed=arguments.seed).tokens
            whole = SelectedLatents(sae, bundle.read_sae(site), source=f"{bundle.path}: {site}", topk="relu")
            found[site] = made = thresholds_at(whole, [tokens])
            print(
                f"{site}: {made.own} of {sae.latents} latents have thresholds of their own; {made.mean_count:.1f} fire "
                f"at a token (k is {made.k}); precision {made.precision:.3f}, recall {made.recall:.3f} on "
                f"{made.tokens} tokens"
            )
        print(write_thresholds(arguments.out, bundle, found).path)
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    return 0
