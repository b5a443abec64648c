"""Files at the edge of what is read as a dictionary: each is read with its own semantics, or refused by name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...steering.formats.bundle import open_bundle
from ...steering.formats.foreign import ORIENTATIONS, Declared, open_foreign
from ...steering.formats.header import Base, BundleHeader, Made, SaeSite
from ...steering.formats.writing import write_bundle
from ...steering.sites import Site
from .edges import Case, refused

WIDTH, LATENTS, K = 6, 15, 4
ALL = list(range(WIDTH))


class Format(NamedTuple):
    """Another project's format as it is written here."""

    names: tuple[str, str, str, str]
    """Of encoder, decoder, encoder bias and decoder bias."""
    config: Callable[[int, int], dict[str, Any]]
    """For so many latents and such a width."""
    mystery: dict[str, Any]
    """What to change in its configuration so that its activation is not one that is known, where it names one."""


FORMATS = {
    "saelens": Format(
        ("W_enc", "W_dec", "b_enc", "b_dec"),
        lambda n, d: {"architecture": "standard", "d_in": d, "d_sae": n},
        {"architecture": "mystery"},
    ),
    "sparsify": Format(
        ("encoder.weight", "W_dec", "encoder.bias", "b_dec"),
        lambda n, d: {"k": K, "d_in": d, "num_latents": n, "activation": "topk"},
        {"activation": "groupmax"},
    ),
    "dictionary_learning": Format(
        ("encoder.weight", "decoder.weight", "encoder.bias", "bias"),
        lambda n, d: {"trainer": {"dict_class": "AutoEncoder", "activation_dim": d, "dict_size": n}},
        {"trainer": {"dict_class": "MysteryAutoEncoder"}},
    ),
    "openai": Format(
        ("encoder.weight", "decoder.weight", "latent_bias", "pre_bias"),
        lambda n, d: {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}},
        {"activation": "Mystery"},
    ),
    "finebooru": Format(
        ("encoder.weight", "decoder.weight", "encoder.bias", "bias"),
        lambda n, d: {"features": d, "pages": n, "k": K},
        {},
    ),
}

Parts = tuple[Tensor, Tensor, Tensor, Tensor]
"""Encoder and decoder (N, d) and their biases (N) and (d)."""


def drawn(latents: int) -> Parts:
    g = torch.Generator().manual_seed(3)
    sizes = ((latents, WIDTH), (latents, WIDTH), (latents,), (WIDTH,))
    encoder, decoder, bias, centre = (torch.randn(size, generator=g) for size in sizes)
    return encoder, decoder, bias, centre


def written(folder: Path, format: Format, parts: Parts, orientation: str, **changes: Any) -> Path:
    """The file with its configuration beside it."""
    encoder, decoder, *biases = parts
    encoder_rows, decoder_rows = ORIENTATIONS[orientation] or (True, True)
    laid = (encoder if encoder_rows else encoder.T, decoder if decoder_rows else decoder.T, *biases)
    save_file({n: t.contiguous() for n, t in zip(format.names, laid)}, folder / "one.safetensors")
    config = format.config(*encoder.shape) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "one.safetensors"


def cases() -> Iterator[Case]:
    """All cases of files."""
    for name, format in FORMATS.items():
        for orientation in list(ORIENTATIONS)[1:]:
            for latents in (LATENTS, WIDTH):
                yield Case(
                    "orientation",
                    f"{name}, {orientation}, N = {latents}",
                    lambda f=format, o=orientation, n=latents: _in_folder(_oriented, f, o, n),
                )
        if format.mystery:
            yield Case("unknown_activation", name, lambda f=format: _in_folder(_unknown, f))
        for part in range(4):
            for value in (torch.nan, torch.inf):
                yield Case(
                    "file_not_finite",
                    f"{name}, {value} in {format.names[part]}",
                    lambda f=format, p=part, v=value: _in_folder(_spoilt, f, p, v),
                )
    for activation in ("mystery", "softmax", ""):
        yield Case(
            "unknown_activation",
            f"bundle, {activation!r}",
            lambda a=activation: _in_folder(_unknown_bundle, a),
        )
    for part in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
        yield Case("file_not_finite", f"bundle, {part}", lambda p=part: _in_folder(_spoilt_bundle, p))
    for latents in ([LATENTS], [-1], [2, 2]):
        yield Case("indices", f"bundle, {latents}", lambda n=latents: _in_folder(_outside_bundle, n))


def _in_folder(check: Callable[..., str | None], *arguments: Any) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        return check(Path(folder), *arguments)


def _oriented(folder: Path, format: Format, orientation: str, latents: int) -> str | None:
    """With N = d somebody has to say how the matrices lie; otherwise the shapes do, and what is said must fit."""
    parts = drawn(latents)
    path = written(folder, format, parts, orientation)
    if latents == WIDTH and (wrong := refused(lambda: open_foreign(path), "Say the orientation")):
        return wrong
    for said in ("auto", *list(ORIENTATIONS)[1:]):
        declared = Declared(orientation=said)
        if latents != WIDTH and said not in ("auto", orientation):
            if wrong := refused(lambda d=declared: open_foreign(path, d), "as declared"):
                return wrong
        elif said == orientation or latents != WIDTH:
            rows = open_foreign(path, declared).read(ALL)
            if not (torch.equal(rows.encoder, parts[0][ALL]) and torch.equal(rows.decoder, parts[1][ALL])):
                return f"with {said} said its rows are others"
    return None


def _unknown(folder: Path, format: Format) -> str | None:
    path = written(folder, format, drawn(LATENTS), "auto", **format.mystery)
    return refused(lambda: open_foreign(path), "config.json", "expected")


def _spoilt(folder: Path, format: Format, part: int, value: float) -> str | None:
    parts = drawn(LATENTS)
    parts[part].view(-1)[1] = value
    path = written(folder, format, parts, "auto")
    return refused(lambda: open_foreign(path).read(ALL), f"{format.names[part]}: expected finite numbers")


def _bundle(folder: Path, activation: str = "relu") -> Any:
    site = SaeSite(WIDTH, LATENTS, activation)
    header = BundleHeader("edge", "flux", Base("any"), "CC0-1.0", Made("bench"), {Site("text"): site})
    names = ("encoder", "decoder", "encoder_bias", "decoder_bias")
    tensors = {f"text.{name}": part for name, part in zip(names, drawn(LATENTS))}
    return write_bundle(folder / "one.safetensors", header, tensors)


def _unknown_bundle(folder: Path, activation: str) -> str | None:
    return refused(lambda: _bundle(folder, activation), "activation: expected", "'relu'")


def _spoilt_bundle(folder: Path, part: str) -> str | None:
    """A NaN put into the file past its writer, which refuses it too."""
    bundle = _bundle(folder)
    with bundle.path.open("r+b") as file:
        file.seek(bundle.container.tensors[f"text.{part}"].start)
        file.write(torch.tensor([torch.nan]).numpy().tobytes())
    # By its hash or by its value, whichever is looked at first.
    return refused(lambda: open_bundle(bundle.path).read_latents(Site("text"), ALL), f"text.{part}: expected")


def _outside_bundle(folder: Path, latents: list[int]) -> str | None:
    bundle = _bundle(folder)
    return refused(lambda: bundle.read_latents(Site("text"), latents), f"latents from 0 to {LATENTS - 1}")
