"""The safetensors container, read strictly: a length, a JSON table, then the tensors' bytes without a gap.

Only the table is read. Everything it promises is held against the true size of the file before anything else
trusts it, so that later reads cannot run past the end; a file of another kind is called by its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from .fields import DAMAGED, Field, parse_json, shown

Buffer = bytes | memoryview

ITEM_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
LONGEST_TABLE = 32 * 2**20
"""Bytes. A real table of a large bundle takes some hundred kilobytes; the container itself allows 100 MB."""

_IMPOSTORS: tuple[tuple[bytes, str], ...] = (
    (b"\x80", "a Python pickle, which SteerDiT never opens because it can run code"),
    (
        b"PK\x03\x04",
        "a zip archive (as torch.save writes), which SteerDiT never opens because it can run code",
    ),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<", "a web page"),
    (b"{", "bare JSON"),
)


@dataclass(frozen=True)
class TensorSpan:
    """One tensor's place in a file."""

    dtype: str
    """As the container names it: F16, BF16, F32, ..."""
    shape: tuple[int, ...]
    start: int
    """Bytes from the beginning of the file."""
    stop: int


@dataclass(frozen=True)
class Container:
    """The table of one safetensors file."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorSpan]
    stamp: tuple[int, int]
    """Size and modification time (ns) when the table was read."""

    def unchanged(self) -> None:
        """Refuses if the file is no longer the one whose table was read."""
        try:
            stamp = _stamp(self.path)
        except OSError as reason:
            raise _unreadable(self.path, reason) from reason
        if stamp != self.stamp:
            raise BundleError(
                str(self.path),
                expected="the file that was opened",
                found="another size or time of change",
                remedy="Load it again; and let nothing write to it while it is in use.",
            )


def read_container(path: str | os.PathLike[str]) -> Container:
    """Reads and checks the table of a safetensors file; no tensor is touched.

    Raises:
        BundleError: for anything that is not a whole, well-formed safetensors file.
    """
    file = Path(path)
    try:
        stamp = _stamp(file)
        size = stamp[0]
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            first = prefix + stream.read(24)
            _refuse_impostor(file, size, length, first)
            stream.seek(8)
            table = stream.read(length)
    except OSError as reason:
        raise _unreadable(file, reason) from reason
    root = Field(str(file), "", parse_json(table, f"{file}: the table of tensors"))
    fields = root.mapping()
    metadata: dict[str, str] = {}
    if "__metadata__" in fields:
        for name, entry in fields.pop("__metadata__").mapping().items():
            if not isinstance(entry.value, str):
                entry.refuse("a text")
            metadata[name] = entry.value
    spans = {name: _span(entry, 8 + length, size) for name, entry in fields.items()}
    _refuse_gaps(file, spans, 8 + length, size)
    return Container(file, metadata, spans, stamp)


def write_container(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, tuple[int, ...], Buffer]]
) -> None:
    """Writes a safetensors file whose bytes depend on nothing but the arguments, and flushes it to the disk.

    Args:
        tensors: by name, each as (dtype, shape, little-endian bytes).
    """
    ordered = sorted(
        tensors, key=lambda name: (-ITEM_SIZES[tensors[name][0]], name)
    )  # wide items first: aligned
    table: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name in ordered:
        dtype, shape, content = tensors[name]
        table[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + len(content)],
        }
        position += len(content)
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in ordered:
            stream.write(tensors[name][2])
        stream.flush()
        os.fsync(stream.fileno())


def chunks(path: Path, span: TensorSpan, size: int = 8 * 2**20) -> Iterator[bytes]:
    """One tensor's bytes, a piece at a time."""
    with path.open("rb") as stream:
        stream.seek(span.start)
        left = span.stop - span.start
        while left > 0:
            piece = stream.read(min(size, left))
            if not piece:
                raise BundleError(str(path), expected="a whole file", found="an early end", remedy=DAMAGED)
            left -= len(piece)
            yield piece


def sha256_of(pieces: Iterable[Buffer]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _unreadable(path: Path, reason: OSError) -> BundleError:
    return BundleError(
        str(path),
        expected="a readable .safetensors file",
        found=reason.strerror or str(reason),
        remedy="Check the path and its permissions; bundles belong into ComfyUI/models/steering.",
    )


def _refuse_impostor(path: Path, size: int, length: int, first: bytes) -> None:
    expected = "a .safetensors file"
    if size < 10:
        found = "an empty file" if size == 0 else f"only {size} bytes"
    elif length > size - 8 or length > LONGEST_TABLE or length < 2 or not first[8:].startswith(b"{"):
        kind = next((kind for magic, kind in _IMPOSTORS if first.startswith(magic)), None)
        if kind is None or first[8:].startswith(b"{"):
            if length > size - 8:
                kind = f"a table of {length} bytes in a file of {size} (cut short, or of another kind)"
            elif length > LONGEST_TABLE:
                kind = f"a table of {length} bytes (at most {LONGEST_TABLE} are read)"
            else:
                kind = f"bytes that begin with {shown(first[:12])}"
        found = kind
    else:
        return
    raise BundleError(str(path), expected=expected, found=found, remedy=DAMAGED)


def _span(entry: Field, data_start: int, size: int) -> TensorSpan:
    fields = entry.record("dtype shape data_offsets")
    dtype = fields["dtype"].one_of(ITEM_SIZES)
    shape = tuple(member.integer(0, 2**48) for member in fields["shape"].items())
    offsets = [member.integer(0, 2**62) for member in fields["data_offsets"].items()]
    if len(shape) > 8:
        fields["shape"].refuse("at most 8 dimensions")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        fields["data_offsets"].refuse("a start and an end")
    needed = math.prod(shape) * ITEM_SIZES[dtype]
    if offsets[1] - offsets[0] != needed:
        fields["data_offsets"].refuse(f"{needed} bytes, as {dtype} of shape {list(shape)} takes")
    if data_start + offsets[1] > size:
        entry.refuse(
            f"{data_start + offsets[1]} bytes in the file",
            f"{size}",
            "The file is cut short: download it again.",
        )
    return TensorSpan(dtype, shape, data_start + offsets[0], data_start + offsets[1])


def _refuse_gaps(path: Path, spans: Mapping[str, TensorSpan], data_start: int, size: int) -> None:
    """No byte may belong to no tensor or to two: hidden content has no place in a bundle."""
    position = data_start
    for name, span in sorted(spans.items(), key=lambda item: (item[1].start, item[1].stop)):
        if span.start != position:
            raise BundleError(
                f"{path}: {shown(name)}",
                expected=f"tensors one after the other, this one from byte {position}",
                found=f"its start at byte {span.start}",
                remedy=DAMAGED,
            )
        position = span.stop
    if position != size:
        raise BundleError(
            str(path),
            expected=f"the end of the file at byte {position}",
            found=f"{size} bytes",
            remedy=DAMAGED,
        )
