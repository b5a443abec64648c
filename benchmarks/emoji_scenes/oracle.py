"""The judge of the world: a small detector that says which things and attributes a picture shows, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .concepts import LABELS

CELLS = 8
WIDTHS = (32, 64, 128, 160)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.na, self.nb = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))


def down(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), Residual(o))


class Oracle(nn.Module):
    """Pictures (B, 3, 128, 128) in [0, 1] → logits (B, labels, 8, 8); a label is there if its best cell is above 0."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(3, a, 3, 1, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU())
        self.body = nn.Sequential(down(a, b), down(b, c), down(c, d), Residual(d))
        self.head = nn.Conv2d(d, len(LABELS), 1)
        nn.init.constant_(self.head.bias, -4.0)

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 160, 8, 8): what artefacts are measured in."""
        return self.body(self.stem(F.avg_pool2d(pictures, 2) * 2 - 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.features(pictures))

    def save(self, path: Path, real_cells: Tensor) -> None:
        """``real_cells`` (n, 160): feature cells of drawn scenes, against which artifacts are measured."""
        state = {**self.state_dict(), "real_cells": real_cells}
        save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Oracle:
        net = cls()
        state = {
            k: v.float() if v.is_floating_point() else v
            for k, v in load_file(path).items()
            if k != "real_cells"
        }
        net.load_state_dict(state)
        return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Verdict:
    """What the oracle sees in one picture: label → (confidence, column, row), columns and rows in eighths."""

    found: dict[str, tuple[float, int, int]]

    def __contains__(self, label: str) -> bool:
        return label in self.found


@torch.no_grad()
def judge(oracle: Oracle, pictures: Tensor, batch: int = 64) -> list[Verdict]:
    """Pictures (B, 3, 128, 128) in [0, 1] → a verdict each."""
    verdicts = []
    for part in pictures.split(batch):
        best, at = oracle(part).flatten(2).max(-1)  # (b, labels)
        for row, cells in zip(best, at):
            seen = (row > 0).nonzero().flatten().tolist()
            verdicts.append(
                Verdict(
                    {
                        LABELS[i]: (float(row[i].sigmoid()), int(cells[i]) % CELLS, int(cells[i]) // CELLS)
                        for i in seen
                    }
                )
            )
    return verdicts
