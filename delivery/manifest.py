"""The list of weights that this pack ships or knows where to get: `weights_manifest.json`.

weights_manifest.schema.json is the public form of the checks made here; a test holds the two together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..steering.errors import SteeringError
from ..steering.formats.directions import DIRECTION_BLOCKS
from ..steering.formats.fields import LICENSE, SHA256, Field, parse_json

PACK = Path(__file__).resolve().parents[1]
MANIFEST = PACK / "weights_manifest.json"

KINDS = ("bundle", "model", "text_encoder", "codec", "oracle")
FAMILIES = tuple(DIRECTION_BLOCKS)
"""All that a bundle may be for."""

REPOSITORY = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_NAME = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_URL = re.compile(r"https://.+\.safetensors")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")

REPAIR = "Restore weights_manifest.json from the pack's repository, or correct the entry."


class ManifestError(SteeringError):
    """The manifest cannot be read, or does not hold what was asked for."""


@dataclass(frozen=True)
class Shipped:
    """A file of this pack."""

    path: str
    """Relative to the pack's folder."""


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository."""

    repo_id: str
    filename: str
    revision: str = "main"


@dataclass(frozen=True)
class WebFile:
    """A file behind a plain address."""

    url: str


Source = Shipped | HubFile | WebFile


@dataclass(frozen=True)
class Weight:
    """One entry of the manifest."""

    name: str
    kind: str
    family: str | None
    file: str
    """The name that it gets on disk."""
    source: Source
    sha256: str
    bytes: int
    license: str
    """SPDX expression."""
    description: str


@dataclass(frozen=True)
class Manifest:
    weights: tuple[Weight, ...]

    @property
    def bundles(self) -> tuple[Weight, ...]:
        return tuple(weight for weight in self.weights if weight.kind == "bundle")

    @property
    def shipped(self) -> tuple[Weight, ...]:
        return tuple(weight for weight in self.weights if isinstance(weight.source, Shipped))

    def find(self, name: str) -> Weight:
        """The entry of that name.

        Raises:
            ManifestError: there is none; the message lists those that there are.
        """
        for weight in self.weights:
            if weight.name == name:
                return weight
        raise ManifestError(
            f"weights_manifest.json: {name}",
            expected=f"one of {', '.join(weight.name for weight in self.weights) or 'no names at all'}",
            found=repr(name),
            remedy="Choose a listed name, or give a repository and a file.",
        )


def read_manifest(path: str | os.PathLike[str] = MANIFEST) -> Manifest:
    """Reads and checks the manifest.

    Raises:
        ManifestError: names the field, what was expected, what was found, what to do.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as reason:
        raise ManifestError(
            str(file), expected="a readable manifest", found=reason.strerror or str(reason), remedy=REPAIR
        ) from reason
    document = parse_json(content, str(file), error=ManifestError, remedy=REPAIR)
    fields = Field(str(file), "", document, ManifestError, REPAIR).record("weights", "$schema")
    weights = tuple(_weight(entry) for entry in fields["weights"].items())
    for attribute in ("name", "file"):
        values = [getattr(weight, attribute) for weight in weights]
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            fields["weights"].refuse(f"each {attribute} once", f"{twice[0]!r} more than once")
    return Manifest(weights)


def safe_repository_path(filename: str) -> bool:
    """Whether a path within a repository names a .safetensors file and cannot lead out of any folder."""
    parts = PurePosixPath(filename).parts
    return (
        filename == "/".join(parts)
        and bool(parts)
        and all(part not in ("", ".", "..", "/") for part in parts)
        and not any(character in '\\:*?"<>|' or not character.isprintable() for character in filename)
        and parts[-1].endswith(".safetensors")
        and not parts[-1].startswith(".")
    )


def _weight(entry: Field) -> Weight:
    fields = entry.record("name kind family file source sha256 bytes license description")
    description = fields["description"].text()
    if len(description) < 10:
        fields["description"].refuse("at least 10 characters")
    return Weight(
        name=fields["name"].matching(_NAME, "small letters and digits, joined by single '.' or '-'"),
        kind=fields["kind"].one_of(KINDS),
        family=fields["family"].optional(lambda family: family.one_of(FAMILIES)),
        file=fields["file"].matching(_FILE, "a plain file name ending with .safetensors"),
        source=_source(fields["source"]),
        sha256=fields["sha256"].matching(SHA256, "a sha256 as 64 small hexadecimal digits"),
        bytes=fields["bytes"].integer(1),
        license=fields["license"].matching(LICENSE, "an SPDX licence expression, such as Apache-2.0"),
        description=description,
    )


def _source(entry: Field) -> Source:
    readers: dict[str, Callable[[Field], Source]] = {"path": _shipped, "repo_id": _hub_file, "url": _web_file}
    present = [key for key in readers if key in entry.mapping()]
    if len(present) != 1:
        entry.refuse(f"exactly one of the keys {', '.join(readers)}")
    return readers[present[0]](entry)


def _shipped(entry: Field) -> Source:
    path = entry.record("path")["path"]
    if not safe_repository_path(path.text()):
        path.refuse("a .safetensors file inside the pack, written with forward slashes")
    return Shipped(path.text())


def _hub_file(entry: Field) -> Source:
    fields = entry.record("repo_id filename", "revision")
    if not safe_repository_path(fields["filename"].text()):
        fields["filename"].refuse("a .safetensors file inside the repository")
    revision = (
        fields["revision"].matching(_REVISION, "a commit, tag or branch") if "revision" in fields else "main"
    )
    return HubFile(fields["repo_id"].matching(REPOSITORY, "owner/name"), fields["filename"].text(), revision)


def _web_file(entry: Field) -> Source:
    return WebFile(entry.record("url")["url"].matching(_URL, "an https address that ends with .safetensors"))
