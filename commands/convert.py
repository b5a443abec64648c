"""`python -m steerdit convert FILE --family flux --site double.18.image`: another project's autoencoder as a bundle.

This is the only place where pickles are read, and only by torch's restricted reader, which runs no code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..steering.errors import BundleError, SteeringError
from ..steering.formats.bundle import TORCH_DTYPES
from ..steering.formats.foreign import (
    AUTO,
    FORMATS,
    ORIENTATIONS,
    Declared,
    Dictionary,
    ForeignFile,
    open_foreign,
    read_config,
    understood,
)
from ..steering.formats.foreign.control_vector import read_control_vector
from ..steering.formats.foreign.imported import UNKNOWN, Placed, write_dictionary
from ..steering.formats.foreign.pickles import SUFFIXES, load_pickle
from ..steering.formats.header import FAMILY_BLOCKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, help=f".safetensors, or a pickle of tensors ({', '.join(SUFFIXES)})"
    )
    parser.add_argument("--family", choices=FAMILY_BLOCKS, required=True, help="the model that it steers")
    parser.add_argument("--site", default="", help="where it was trained, such as double.18.image")
    parser.add_argument(
        "--to", type=Path, help="the bundle (default: the file's name with .bundle.safetensors)"
    )
    parser.add_argument("--replace", action="store_true", help="replace a bundle of that name")
    parser.add_argument(
        "--category",
        action="append",
        default=[],
        metavar="NAME=LATENTS",
        help="latents that stand for a risk, such as weapons=3,17:0.5,100-103; give it once per category",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.0, help="score above which gates open (default: %(default)s)"
    )
    parser.add_argument("--format", choices=(AUTO, *FORMATS), default=AUTO, help="whose file it is")
    parser.add_argument(
        "--config", type=Path, help="its configuration (default: cfg.json or config.json beside it)"
    )
    parser.add_argument(
        "--orientation", choices=ORIENTATIONS, default=AUTO, help="which way its matrices lie, where N = d"
    )
    parser.add_argument("--width", type=int, help="d of the site, to be sure")
    parser.add_argument("--k", type=int, help="of a TopK autoencoder whose file does not say it")
    parser.add_argument(
        "--input-scale", type=float, help="factor of the activations in training, if not folded in"
    )
    parser.add_argument(
        "--trained-here",
        action="store_true",
        help="it was trained at this site, whatever its format is used for",
    )
    parser.add_argument("--name", default="", help="of the bundle (default: the file's name)")
    parser.add_argument(
        "--base", default="not said", help="name of the checkpoint whose activations it knows"
    )
    parser.add_argument("--license", default=UNKNOWN, help="SPDX expression (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=TORCH_DTYPES, default="F32", help="of the matrices (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130
    except SteeringError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    source: Path = arguments.file
    target: Path = arguments.to or source.with_name(f"{source.stem}.bundle.safetensors")
    if target.exists() and (not arguments.replace or target.samefile(source)):
        raise BundleError(
            str(target),
            expected="no file of that name",
            found="one",
            remedy="Name another with --to, or give --replace.",
        )
    dictionary = _opened(source, arguments)
    placed = Placed(
        family=arguments.family,
        site=arguments.site,
        categories=_categories(arguments.category),
        threshold=arguments.threshold,
        name=arguments.name,
        base=arguments.base,
        license=arguments.license,
    )
    from tqdm import tqdm  # comes with huggingface_hub

    with tqdm(unit="latent", total=dictionary.latents, desc=source.name) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(done - bar.n)

        bundle = write_dictionary(target, dictionary, placed, dtype=arguments.dtype, progress=progress)
    for site, sae in bundle.sites.items():
        print(f"{bundle.path}: {sae.latents} {sae.activation} latents of width {sae.width} at {site}")
    if not bundle.categories:
        print(
            "It has no category yet, so nothing to steer by: give --category NAME=LATENTS.", file=sys.stderr
        )
    return 0


def _opened(source: Path, arguments: argparse.Namespace) -> Dictionary:
    declared = Declared(
        width=arguments.width,
        orientation=arguments.orientation,
        k=arguments.k,
        input_scale=arguments.input_scale,
        trained_here=arguments.trained_here,
    )
    if source.suffix.lower() == ".gguf":
        vector = read_control_vector(source)
        raise BundleError(
            str(source),
            expected="an autoencoder",
            found=f"a control vector of {vector.model or 'an unnamed language model'}: "
            f"{len(vector.layers)} directions of width {vector.width}",
            remedy="It is a direction, which encodes nothing: bring it in with the node Import Direction.",
        )
    if source.suffix.lower() in SUFFIXES:
        tensors, extras = load_pickle(source)
        config = read_config(source, arguments.config)
        return understood(ForeignFile(tensors, config, extras, declared), arguments.format)
    return open_foreign(source, declared, arguments.format, arguments.config)


def _categories(given: list[str]) -> dict[str, str]:
    categories: dict[str, str] = {}
    for entry in given:
        name, equals, latents = entry.partition("=")
        if not equals or name.strip() in categories:
            raise BundleError(
                f"--category {entry}",
                expected="NAME=LATENTS, each name once",
                found="no =" if not equals else "the name again",
                remedy="Write for example --category weapons=3,17:0.5,100-103.",
            )
        categories[name.strip()] = latents
    return categories
