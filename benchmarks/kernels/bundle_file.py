"""What it costs to make a Repel of a few latents of a whole dictionary's file.

python -m steerdit.benchmarks.kernels.bundle_file WARM-UP BUNDLE      seconds and bytes of the second, as JSON
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ...steering import Gate, Repel, SelectedLatents
from ...steering.formats import header
from ...steering.formats.bundle import open_bundle
from ...steering.formats.writing import write_bundle
from ...steering.sites import Site
from ..results import Claim, at_most
from ..timing import peak_bytes
from .settings import SEED


def claims_f(rows: dict[str, Any], folder: Path, width: int, latents: int) -> dict[str, Claim]:
    """A Repel of 64 latents, in a process that has made one of a small bundle before and holds nothing of that size."""
    small, path = folder / "small.safetensors", folder / "large.safetensors"
    random_bundle(small, ("double.0.image",), 16, 64, 0.0)
    random_bundle(path, ("double.0.image",), width, latents, 0.0)
    gc.collect()
    command = [sys.executable, "-m", __spec__.name, str(small), str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    rows["f"] = {"file_bytes": path.stat().st_size, **found}
    claims = {"f.seconds": at_most(found["seconds"], 1.0, 1)}
    if found["peak_bytes"] is not None:
        claims["f.bytes"] = at_most(found["peak_bytes"], 20e6, 1)
    return claims


def repel(path: Path) -> Repel:
    """Of all latents that the bundle's categories hold at its only site."""
    bundle = open_bundle(path)
    ((site, sae),) = bundle.sites.items()
    latents = SelectedLatents(sae, bundle.read_latents(site, sae.selected()), sae.selected())
    return Repel(latents, Gate.over("image", dict(sae.categories), latents.latents))


def random_bundle(path: Path, sites: tuple[str, ...], d: int, latents: int, gate: float) -> Any:
    """A jumprelu bundle of random rows whose one category has up to 64 latents, spread over the dictionary."""
    g = torch.Generator().manual_seed(SEED)
    count = min(64, latents)
    chosen = tuple(range(0, latents, latents // count))[:count]
    category = header.Category(chosen, (1.0,) * count, header.GateThresholds(gate, gate))
    sae = header.SaeSite(d, latents, "jumprelu", categories={"random": category})
    rows = torch.randn(latents, d, generator=g).div_(d**0.5)
    tensors = {
        "encoder": rows,
        "encoder_bias": torch.zeros(latents),
        "decoder": 0.01 * rows,
        "decoder_bias": torch.zeros(d),
        "threshold": torch.ones(latents),
    }
    said = header.BundleHeader(
        "random",
        "flux",
        header.Base("any"),
        "CC0-1.0",
        header.Made("bench"),
        {Site.parse(s): sae for s in sites},
    )
    return write_bundle(path, said, {f"{site}.{part}": t for site in sites for part, t in tensors.items()})


def main() -> int:
    seconds = 0.0

    def made() -> None:
        nonlocal seconds
        began = time.perf_counter()
        repel(Path(sys.argv[2]))
        seconds = time.perf_counter() - began

    repel(Path(sys.argv[1]))
    held = peak_bytes(made)
    print(json.dumps({"seconds": seconds, "peak_bytes": held}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
