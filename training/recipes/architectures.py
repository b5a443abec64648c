"""What is known of a model before it is loaded: its shape, from its file's header or from a table of public models."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...host.families.flux import FAMILY as FLUX
from ...host.families.sd3 import CLIP_TOKENS
from ...host.families.sd3 import FAMILY as SD3
from ...steering.errors import SteeringError
from ...steering.sites import Site, select_sites

PIXELS = 16
"""Of a picture, along each side, that one token stands for: 8 by the VAE and 2 by the model's patches."""


@dataclass(frozen=True)
class Architecture:
    """Enough of a model to compute what it takes."""

    family: str
    """flux or sd3"""
    width: int
    """d"""
    text_width: int
    """Of the conditioning."""
    blocks: Mapping[str, int]
    """How many of each kind: double and single, or joint."""
    bytes: int
    """Of its weights, as they are kept."""
    text_bytes: int
    """Of the text encoders' weights."""
    conditioning: int
    """Tokens of a conditioning, padding included."""

    def sites(self, expression: str) -> dict[Site, int]:
        """The sites that an expression names, with their widths."""
        dit, family = self._stand_in(), FLUX if self.family == "flux" else SD3
        default = expression.strip() in ("", "default")
        chosen = family.positions(dit) if default else select_sites(expression, family.sites(dit))
        return {site: family.width(dit, site) for site in sorted(chosen)}

    def image_tokens(self, height: int, width: int) -> int:
        return math.ceil(height / PIXELS) * math.ceil(width / PIXELS)

    def operations(self, height: int, width: int) -> float:
        """Floating-point operations of one call for one picture: the blocks' products and their attention.

        A token passes 12 d² weights in each block (4 d² of attention, 8 d² of the MLP), at 2 operations each; attention
        takes 4 L² d more.
        """
        length = self.image_tokens(height, width) + self.conditioning
        depth = sum(self.blocks.values())
        return depth * (24.0 * length * self.width**2 + 4.0 * length**2 * self.width)

    def words(self, count: int) -> list[int]:
        """The places of a conditioning that a prompt of so many words takes: about 1.4 a word and an end mark."""
        tokens = math.ceil(1.4 * count) + 1
        if self.family == "flux":
            return list(range(min(tokens, max(self.conditioning, 1))))
        clip = range(min(tokens + 1, CLIP_TOKENS))
        return [*clip, *range(CLIP_TOKENS, CLIP_TOKENS + tokens)]

    def text_start(self, sites: Mapping[Site, int]) -> int:
        return CLIP_TOKENS if self.family == "sd3" and Site("text") in sites else 0

    def _stand_in(self) -> Any:
        """What the families ask a model for."""
        blocks = {f"{kind}_blocks": range(count) for kind, count in self.blocks.items()}
        return SimpleNamespace(
            **blocks,
            hidden_size=self.width,
            params=SimpleNamespace(global_modulation=False, context_in_dim=self.text_width),
            context_embedder=SimpleNamespace(in_features=self.text_width),
        )


GB = 10**9

KNOWN: Mapping[str, Architecture] = {
    # 11.9 and 8.1 × 10⁹ parameters in bfloat16; T5-XXL (4.76 × 10⁹) and CLIP L (0.12), G (0.69) in float16.
    "flux1-dev": Architecture(
        "flux", 3072, 4096, {"double": 19, "single": 38}, round(23.8 * GB), round(9.8 * GB), 256
    ),
    "sd3.5-large": Architecture(
        "sd3", 2432, 4096, {"joint": 38}, round(16.3 * GB), round(11.2 * GB), 77 + 77
    ),
}
"""Public models by the name that a recipe's model.architecture says."""


def architecture_of(name: str, file: Path | None, text_bytes: int = 0) -> Architecture:
    """The architecture of a model's file, or of a name while there is no file.

    Args:
        text_bytes: of the text encoders' files, where they are there.

    Raises:
        SteeringError: there is neither, or the file is of no known family.
    """
    if file is not None and file.is_file():
        return read_architecture(file, text_bytes)
    if name in KNOWN:
        return KNOWN[name]
    raise SteeringError(
        "model.architecture",
        expected=f"one of {', '.join(KNOWN)}, while {file} is not there",
        found=repr(name),
        remedy="Correct the model's path, or name the architecture.",
    )


def read_architecture(path: Path, text_bytes: int = 0) -> Architecture:
    """The architecture by the names and shapes of a .safetensors file; no tensor is read."""
    shapes = _shapes(path)
    prefix = next((name[: -len(end)] for name in shapes for end in _FIRST if name.endswith(end)), None)
    if prefix is None:
        raise SteeringError(
            str(path),
            expected="a FLUX.1 or SD3 diffusion model",
            found="tensors of neither",
            remedy="Check the path.",
        )
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    blocks: dict[str, int] = {}
    for name in own:
        if found := re.match(r"(double|single|joint)_blocks\.(\d+)\.", name):
            blocks[found[1]] = max(blocks.get(found[1], 0), int(found[2]) + 1)
    flux = "double" in blocks
    width, text_width = own["txt_in.weight" if flux else "context_embedder.weight"]
    whole = path.stat().st_size
    return Architecture(
        "flux" if flux else "sd3",
        width,
        text_width,
        dict(sorted(blocks.items())),
        whole,
        text_bytes,
        # A small model's text encoder pads nothing.
        (256 if flux else 77 + 77) if text_width >= 1024 else (16 if flux else 77 + 16),
    )


_FIRST = ("double_blocks.0.img_mod.lin.weight", "joint_blocks.0.x_block.adaLN_modulation.1.weight")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 100 * 2**20:
                raise ValueError("no safetensors header")
            header = json.loads(stream.read(length))
        return {name: tuple(of["shape"]) for name, of in header.items() if name != "__metadata__"}
    except (OSError, ValueError, struct.error, KeyError, TypeError) as reason:
        raise SteeringError(
            str(path), expected="a .safetensors file", found=str(reason), remedy="Check the path."
        ) from reason
