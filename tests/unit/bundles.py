"""Small bundles for tests: random numbers, real files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steerdit.steering.formats.container import sha256_of
from steerdit.steering.formats.header import (
    Base,
    BundleHeader,
    Category,
    GateThresholds,
    Made,
    RateRecord,
    SaeSite,
)
from steerdit.steering.sites import Site

TEXT = Site.parse("text")
BIND = Site.parse("double.1.image")
WEAPONS = Category(
    (7, 2, 3),
    (1.0, 0.5, 2.0),
    GateThresholds(0.25, 1.5, RateRecord(0.01, 0.0, 0.03), RateRecord(0.9, 0.8, 1.0)),
)
BLOODY = Category((3, 11), (1.0, 1.0), GateThresholds(0.1, 0.2))


def small_header(**changes: Any) -> BundleHeader:
    parts: dict[str, Any] = {
        "name": "small",
        "family": "flux",
        "base": Base("random tiny FLUX", "0" * 64),
        "license": "Apache-2.0",
        "made": Made("tests", {"seed": 1, "notes": ["äöü", None, 0.1]}),
        "sites": {
            TEXT: SaeSite(width=6, latents=12, activation="relu", categories={"weapons": WEAPONS}),
            BIND: SaeSite(
                8, 16, "jumprelu", k=4, input_scale=0.3, categories={"weapons": WEAPONS, "bloody": BLOODY}
            ),
        },
    }
    return BundleHeader(**{**parts, **changes})


def small_tensors(
    header: BundleHeader, dtype: torch.dtype = torch.float16, seed: int = 0
) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        f"{site}.{part}": shape
        for site, entry in header.sites.items()
        for part, shape in {**entry.tensor_shapes(), **entry.optional_shapes()}.items()
        if part != "decoder_adapted" or site == BIND
    }
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()}


def rewrite(
    source: Path,
    target: Path,
    *,
    header: Callable[[dict[str, Any]], object] | None = None,
    table: Callable[[dict[str, Any]], object] | None = None,
    body: Callable[[bytearray], object] | None = None,
    sign: bool = True,
) -> Path:
    """A bundle changed by hand, past every check of the writer; `sign` renews the header's digest."""
    content = source.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    data = bytearray(content[8 + length :])
    if header is not None:
        document = json.loads(entries["__metadata__"]["steerdit"])
        header(document)
        entries["__metadata__"]["steerdit"] = json.dumps(document)
    if sign:
        text = entries["__metadata__"]["steerdit"]
        entries["__metadata__"]["steerdit_sha256"] = sha256_of([text.encode()])
    if table is not None:
        table(entries)
    if body is not None:
        body(data)
    head = json.dumps(entries).encode()
    target.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return target


HUGE = 10**400  # a JSON number that no float holds


def container(table: bytes, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with this table, sound or not."""
    return struct.pack("<Q", len(table)) + table + data
