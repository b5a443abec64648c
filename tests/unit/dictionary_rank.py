"""One of several processes that train together; the tests start it as a script, with torchrun's variables."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from steerdit.training.dictionaries.config import read_config
from steerdit.training.dictionaries.data import of_tensor
from steerdit.training.dictionaries.ranks import joined
from steerdit.training.dictionaries.training import train


def main(config: Path, activations: Path, folder: Path) -> None:
    """Trains on a tensor file; the first process leaves journal, checkpoint and the decoder."""
    torch.set_num_threads(1)
    with joined("cpu") as (ranks, device):
        asked = read_config(config)
        data = of_tensor(torch.load(activations, weights_only=True), asked, ranks)
        sae = train(asked, data, folder=folder, device=device, ranks=ranks)
        torch.save(dataclasses.asdict(dataclasses.replace(sae, origin=None)), folder / f"sae-{ranks.rank}.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
