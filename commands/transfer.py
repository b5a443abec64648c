"""`python -m steerdit transfer PAIRS --text-encoder FILE --family flux --to BUNDLE`: directions carried to a generator.

What the nodes Estimate Direction, Align Encoders, Transfer Direction and Save Bundle do, without a server.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..host import headless
from ..steering.errors import SteeringError
from .direction import add_source_arguments, estimated, opened, require_new, shown, stated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--to", type=Path, required=True, help="the bundle, .safetensors")
    target = parser.add_argument_group("target")
    target.add_argument("--family", required=True, help="of the generator: flux, sd3, wan, qwen_image, ...")
    target.add_argument(
        "--text-encoder", type=Path, action="append", default=[], help="its text encoders; give each once"
    )
    target.add_argument("--clip-type", help="as Load CLIP calls it (default: the family)")
    target.add_argument("--checkpoint", type=Path, help="one file with model and text encoders, instead")
    target.add_argument(
        "--comfyui", type=Path, help=f"its folder (default: {headless.VARIABLE}, or where this pack is)"
    )
    target.add_argument("--cpu", action="store_true", help="without a GPU")
    how = parser.add_argument_group("how it is carried")
    how.add_argument("--map", default="ridge", help="ridge, procrustes or mlp (default: %(default)s)")
    how.add_argument(
        "--anchors", type=Path, help="benign prompts to align by (default: broad ones of WordNet)"
    )
    how.add_argument(
        "--benign", type=Path, help="benign prompts to calibrate gates by (default: the anchors)"
    )
    how.add_argument("--quantile", type=float, default=0.99, help="of benign prompts with closed gates")
    how.add_argument(
        "--joint", action="store_true", help="the quantile is of prompts on which no category's gate opens"
    )
    how.add_argument("--floor", type=float, default=0.1, help="least R² above that of shuffled pairs")
    how.add_argument("--seed", type=int, default=0, help="of which anchors are held out")
    about = parser.add_argument_group("what the bundle says")
    about.add_argument("--name", help="(default: the file's)")
    about.add_argument(
        "--base", default="not said", help="the checkpoint or text encoder that it was made for"
    )
    about.add_argument("--license", default="LicenseRef-unknown", help="SPDX expression")


def run(arguments: argparse.Namespace) -> int:
    return stated(_run, arguments)


def _run(arguments: argparse.Namespace) -> None:
    require_new(arguments, (".safetensors",))
    if (arguments.checkpoint is None) == (not arguments.text_encoder):
        raise SteeringError(
            "--text-encoder or --checkpoint",
            expected="the generator's text encoders, or a checkpoint that holds them",
            found="neither" if arguments.checkpoint is None else "both",
            remedy="For example --text-encoder clip_l.safetensors --text-encoder t5xxl_fp16.safetensors.",
        )
    headless.boot(arguments.comfyui, ["--cpu"] if arguments.cpu else [])
    import torch

    from ..host.encoder_states import TextSlot
    from ..steering.direction_files import save_directions
    from ..steering.formats.header import Base
    from ..steering.sites import Site
    from ..training.directions import align, calibrate, read_anchors, transport
    from ..training.directions.align import require_kind
    from ..training.directions.anchors import WORDNET
    from ..training.directions.pairs import require_apart
    from ..training.directions.reports import gates_report, map_report
    from ..training.directions.transport import require_share

    require_kind(arguments.map)
    require_share(arguments.quantile)
    anchors = read_anchors(arguments.anchors or WORDNET)
    benign = read_anchors(arguments.benign) if arguments.benign else anchors
    pairs, source = opened(arguments)
    require_apart(pairs, (*anchors.texts, *benign.texts))
    with torch.inference_mode():  # as the host's nodes run
        clip = (
            headless.load_checkpoint(arguments.checkpoint)[1]
            if arguments.checkpoint is not None
            else headless.load_text_encoders(arguments.text_encoder, arguments.clip_type or arguments.family)
        )
        target = TextSlot(clip, arguments.family)
        found = estimated(arguments, pairs, source, target, anchors)
        with shown("anchors") as progress:
            fitted = align(
                anchors, source, found.directions.about.encoder.layer, target, None, arguments.map,
                floor=arguments.floor, seed=arguments.seed, progress=progress,
            )  # fmt: skip
        print(map_report(fitted))
        carried = transport(found.directions, fitted)
        with shown("gates") as progress:
            carried = calibrate(
                carried, target.steered(), None, benign,
                quantile=arguments.quantile, joint=arguments.joint, progress=progress,
            )  # fmt: skip
        print(gates_report(carried))
    save_directions(
        arguments.to,
        {Site("text"): carried},
        name=arguments.name or arguments.to.stem,
        family=arguments.family,
        base=Base(arguments.base),
        license=arguments.license,
        recipe={
            "pairs": found.pairs_sha256,
            "counterfactual": arguments.counterfactual,
            "map": arguments.map,
            "ridge": fitted.quality.ridge,
            "seed": arguments.seed,
            "quantile": arguments.quantile,
            "joint": arguments.joint,
        },
        replace=arguments.replace,
    )
    print(arguments.to)
