"""`python -m steerdit flow-sites`: which attention tells unsafe content best, and by which step, for Restrict Flow.

Run it once without --masks: it samples the prompts and writes the pictures of the unsafe ones. Mark them, white where
they are unsafe, in files of the same names, and run it again with --masks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..host import headless
from ..steering.errors import SteeringError
from . import hosted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    hosted.add_host_arguments(parser)
    hosted.add_model_arguments(parser)
    what = parser.add_argument_group("what is looked at")
    what.add_argument(
        "--prompts", type=Path, required=True, help=".jsonl or .csv: unsafe (with category) and benign"
    )
    what.add_argument("--vae", type=Path, help="to write and to read pictures; a checkpoint has its own")
    what.add_argument(
        "--references",
        type=Path,
        help="for models that edit: folder of pictures, one for each prompt, in the order of their names",
    )
    what.add_argument(
        "--masks", type=Path, help="folder of pictures, white where unsafe, named as in OUT/pictures"
    )
    what.add_argument("--out", type=Path, required=True, help="folder for pictures, figures and tables")
    what.add_argument(
        "--bundle", type=Path, help="also write anchors of the best attentions as this .safetensors"
    )
    what.add_argument("--best", type=int, default=2, help="how many attentions of it (default: %(default)s)")
    what.add_argument("--sites", default="all", help="such as double.*.attention (default: all)")
    what.add_argument(
        "--every", type=int, default=1, help="look at every how manieth step (default: %(default)s)"
    )
    what.add_argument("--at-once", type=int, default=8, help="attentions in one pass (default: %(default)s)")
    what.add_argument("--seeds", type=int, default=1, help="pictures of each prompt (default: %(default)s)")
    what.add_argument("--first-seed", type=int, default=0)
    hosted.add_sampling_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        hosted.require_model(arguments)
        if arguments.bundle is not None and arguments.bundle.suffix != ".safetensors":
            raise SteeringError(
                "--bundle",
                expected="a name that ends with .safetensors",
                found=str(arguments.bundle),
                remedy="Name it so.",
            )
        hosted.boot(arguments)
        return _run(arguments)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    import torch

    from ..host.sampling import sampling_for
    from ..training.flows.samples import Sampler, examples_of
    from ..training.recordings import read_prompts

    with torch.inference_mode():
        model, clip = hosted.loaded(arguments)
        sampling = sampling_for(
            model,
            arguments.height,
            arguments.width,
            steps=arguments.steps,
            cfg=arguments.cfg,
            sampler=arguments.sampler,
            scheduler=arguments.scheduler,
            guidance=arguments.guidance,
        )
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        rows = read_prompts(arguments.prompts, label="unsafe")
        sampler = Sampler(
            model,
            clip,
            examples_of(rows, seeds),
            sampling,
            negative=arguments.negative,
            batch=arguments.batch,
            references=[one for one in read_references(arguments, len(rows)) for _ in seeds],
        )
        arguments.out.mkdir(parents=True, exist_ok=True)
        if arguments.masks is None:
            return _write_pictures(sampler, arguments)
        return searched(sampler, read_masks(arguments.masks), arguments)


def _write_pictures(sampler: Any, arguments: argparse.Namespace) -> int:
    vae = _vae(
        arguments, "to write pictures that can be marked", " or give --masks if they are marked already"
    )
    folder = arguments.out / "pictures"
    folder.mkdir(exist_ok=True)
    latents = sampler.latents(_shown("sampling"))
    unsafe = [number for number, example in enumerate(sampler.examples) if example.concept is not None]
    for place, number in enumerate(unsafe):
        save_picture(vae.decode(latents[number : number + 1]), folder / f"{place:04}.png")
    print(
        f"{folder}: {len(unsafe)} pictures. Mark them in files of the same names, and run again with --masks."
    )
    return 0


def _vae(arguments: argparse.Namespace, purpose: str, rather: str = "") -> Any:
    file = arguments.vae or arguments.checkpoint
    if file is None:
        raise SteeringError(
            "--vae",
            expected=f"the file of the VAE, {purpose}",
            found="none",
            remedy=f"Name it,{rather}." if rather else "Name it.",
        )
    return headless.load_vae(file)


def searched(sampler: Any, masks: Any, arguments: argparse.Namespace) -> int:
    """Searches, and writes what was found."""
    from ..host.attach import attention_sites
    from ..steering.flow.asked import attention_asked
    from ..training.flows.bundling import collect_bundle
    from ..training.flows.collecting import marked
    from ..training.flows.picture import flow_picture, flow_table, panels
    from ..training.flows.search import KINDS, search

    what = marked(sampler, masks)
    sites = attention_asked(arguments.sites, attention_sites(sampler.model))
    steps = range(0, len(sampler.sigmas), max(1, arguments.every))
    found = search(sampler, what, sites, steps, at_once=arguments.at_once, progress=_shown("searching"))
    blocks = [str(site).removesuffix(".attention") for site in found.sites]
    titles = [f"AUC, {kind.value}" for kind in KINDS]
    save_picture(
        panels(found.aucs, blocks, found.sigmas, titles, [(0.5, 1.0)] * len(KINDS)), arguments.out / "auc.png"
    )
    recorder = sampler.shares(sites, sorted(what.masks)[: arguments.batch], _shown("flow"))
    told = recorder.shares(), blocks, recorder.sigmas, recorder.streams
    save_picture(flow_picture(*told), arguments.out / "flow.png")
    (arguments.out / "flow.txt").write_text(flow_table(*told) + "\n", encoding="utf-8")
    (arguments.out / "sites.json").write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
    print(found.table())
    if arguments.bundle is not None:
        best = [site for site, _, _ in found.ranked()[: arguments.best]]
        startup = found.startup_end(best[0])
        _, summary = collect_bundle(
            sampler,
            masks,
            arguments.bundle,
            sites=", ".join(map(str, best)),
            startup_percent=startup,
            startup_end=startup,
            progress=_shown("collecting"),
        )
        print(f"{arguments.bundle}\n{summary}")
    return 0


def read_masks(folder: Path) -> Any:
    """(n, H, W) of the pictures in a folder, by their names; 1 is white.

    Raises:
        SteeringError: there are none, or they are not all of one size.
    """
    return _pictures(
        folder,
        "L",
        "pictures (.png) of one size, white where something is unsafe",
        "Mark the pictures of OUT/pictures in files of the same names.",
    )


def read_references(arguments: argparse.Namespace, count: int) -> list[Any]:
    """A latent (C, H, W) for each of so many prompts, of the pictures in a folder; none where no folder is named.

    Raises:
        SteeringError: there are more or fewer, they are not all of one size, or there is no VAE.
    """
    if arguments.references is None:
        return []
    pictures = _pictures(
        arguments.references,
        "RGB",
        "pictures (.png) of one size, one for each prompt",
        "Bring them to one size: they are sampled in batches.",
    )
    if len(pictures) != count:
        raise SteeringError(
            str(arguments.references),
            expected=f"{count} pictures, one for each prompt",
            found=f"{len(pictures)}",
            remedy="Give each prompt its picture, in the order of their names.",
        )
    vae = _vae(arguments, "to encode the references")
    return [vae.encode(picture[None])[0] for picture in pictures]


def _pictures(folder: Path, mode: str, expected: str, remedy: str) -> Any:
    """(n, H, W) or (n, H, W, 3), from 0 to 1."""
    import numpy as np
    import torch
    from PIL import Image

    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".webp", ".bmp"))
    found = [np.asarray(Image.open(file).convert(mode), dtype=np.float32) / 255 for file in files]
    if not found or len({one.shape for one in found}) != 1:
        raise SteeringError(
            str(folder),
            expected=expected,
            found="pictures of different sizes" if found else "none",
            remedy=remedy,
        )
    return torch.from_numpy(np.stack(found))


def save_picture(picture: Any, path: Path) -> None:
    """Writes a picture (1, H, W, 3) of values from 0 to 1; Qwen-Image's VAE gives (1, 1, H, W, 3)."""
    from PIL import Image

    flat = picture.reshape(-1, *picture.shape[-3:])
    Image.fromarray((flat[0, ..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()).save(path)


def _shown(what: str) -> Any:
    def show(done: int, total: int) -> None:
        print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
