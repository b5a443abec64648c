"""Sparse autoencoders of other projects, read with their own semantics: one small file per format.

`open_foreign` finds the reader; `import_dictionary` makes of it a bundle whose rows stay in the file, and
`write_dictionary` a bundle file. What a reader does not know, it refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from ...errors import BundleError
from ..container import read_container
from ..fields import Field, parse_json, shown
from . import dictionary_learning, finebooru, openai, qwen_scope, saelens, sparsify, unbox
from .dictionary import Dictionary
from .file import CONFIGS, ORIENTATIONS, Declared, ForeignFile
from .tensors import StoredTensors

FORMATS: Mapping[str, ModuleType] = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "openai": openai,
    "sdxl-unbox": unbox,
    "finebooru": finebooru,
    "qwen-scope": qwen_scope,
}
"""Each has TITLE, `matches(file)` and `read(file)`."""

AUTO = "auto"


def open_foreign(
    path: Path, declared: Declared = Declared(), format: str = AUTO, config: Path | None = None
) -> Dictionary:
    """Opens another project's safetensors file; its rows stay on the disk.

    Args:
        declared: what only the user can say.
        format: a key of `FORMATS`, or auto.
        config: its JSON; None looks for `cfg.json` and `config.json` beside it.

    Raises:
        BundleError: says what is not understood or does not fit, and what to do.
    """
    _refuse_pickle(path)
    tensors = StoredTensors(read_container(path))
    return understood(ForeignFile(tensors, read_config(path, config), declared=declared), format)


def understood(file: ForeignFile, format: str = AUTO) -> Dictionary:
    """What an opened file holds, by the reader of its format."""
    if format not in (AUTO, *FORMATS):
        file.refuse(f"the format {AUTO} or {' or '.join(FORMATS)}", shown(format), "Choose one of them.")
    module = FORMATS[format] if format != AUTO else _recognised(file)
    dictionary: Dictionary = module.read(file)
    declared = file.declared
    if declared.k is not None and dictionary.k != declared.k:
        file.refuse(f"k {declared.k}, as declared", f"k {dictionary.k}", "Leave k to the file.")
    if declared.input_scale not in (None, dictionary.input_scale):
        if dictionary.input_norm != "none":
            file.refuse(
                "input scale 1, as each token is standardised", f"{declared.input_scale:g}", "Leave it out."
            )
        dictionary = dataclasses.replace(dictionary, input_scale=declared.input_scale)
    if dictionary.elsewhere is not None and not declared.trained_here:
        file.refuse(
            "a dictionary of the activation at a site",
            f"one trained on {dictionary.elsewhere}",
            "It would mean nothing at another place. If this one was trained at the site all the same, say so.",
        )
    return dataclasses.replace(
        dictionary, about={"format": module.TITLE, "file": file.path.name[:200], **dictionary.about}
    )


def read_config(path: Path, given: Path | None = None) -> Field | None:
    """The JSON object that belongs to a file."""
    places = [path.with_name(name) for name in CONFIGS] if given is None else [given]
    for place in places:
        if given is not None or place.is_file():
            remedy = "Download the configuration again, from where the file comes."
            try:
                content = place.read_bytes()
            except OSError as reason:
                Field(str(place), "", None).refuse(
                    "a readable JSON file", reason.strerror or str(reason), "Check its path."
                )
            root = Field(str(place), "", parse_json(content, str(place), remedy=remedy), remedy=remedy)
            root.mapping()
            return root
    return None


def sidecars(path: Path) -> list[Path]:
    """All files beside this one that reading it may look at, there or not."""
    return [path.with_name(name) for name in (*CONFIGS, saelens.SCALER)]


def _refuse_pickle(path: Path) -> None:
    """A pickle whatever it is called; any other content is the container's to judge."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError:
        return
    if head.startswith((b"\x80", b"PK\x03\x04")):
        raise BundleError(
            str(path),
            expected="a .safetensors file",
            found="a pickle, which can run code when it is opened",
            remedy="No node opens it. Convert it where you can look at it first: `python -m steerdit convert`.",
        )


def _recognised(file: ForeignFile) -> ModuleType:
    found = [module for module in FORMATS.values() if module.matches(file)]
    if len(found) != 1:
        beside = "with no configuration beside it" if file.config is None else f"with {file.config.file}"
        file.refuse(
            f"a file of {', '.join(module.TITLE for module in FORMATS.values())}",
            f"the tensors {', '.join(sorted(file.names)[:8]) or 'none'}, {beside}"
            if not found
            else f"one that could be of {' or '.join(module.TITLE for module in found)}",
            "Put its configuration (cfg.json or config.json) beside it, or name the format.",
        )
    return found[0]


__all__ = [
    "AUTO",
    "FORMATS",
    "ORIENTATIONS",
    "Declared",
    "Dictionary",
    "ForeignFile",
    "open_foreign",
    "read_config",
    "sidecars",
    "understood",
]
