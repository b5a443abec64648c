"""What of many numbers is above its threshold, on a processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .keys import HOT_BYTES, INTEGERS, Extremes, below, rising


class Firing:
    """The numbers above their row's threshold in a matrix that comes some rows at a time."""

    def __init__(self, threshold: Tensor, rows: int, columns: int, dtype: torch.dtype) -> None:
        """
        Args:
            threshold: () or (rows,), of any float dtype.
            dtype: of the numbers, one of `INTEGERS`.
        """
        self.limits = below(threshold, dtype).expand(rows)
        self.columns = columns
        self.extremes = Extremes(dtype)
        self.seen = 0
        self.places: list[Any] = [np.empty(0, dtype=np.int64)]
        self.values = [torch.empty(0, dtype=dtype)]

    def add(self, rows: Tensor) -> None:
        """The next rows (n, columns), contiguous."""
        step = max(1, HOT_BYTES // max(1, self.columns * rows.element_size()))
        for some in rows.split(step):
            limits = self.limits[self.seen : self.seen + len(some), None]
            keys = some.view(INTEGERS[some.dtype])
            self.extremes.look(keys.numpy())
            if len(some) and int(limits.min()) < 0:
                keys = rising(keys)
            found = np.flatnonzero(keys.numpy() > limits.numpy())
            self.values.append(some.view(-1)[torch.from_numpy(found)])
            self.places.append(found + self.seen * self.columns)
            self.seen += len(some)

    def found(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values (F,) and rows (F,) of what was found, column by column, and how many in each column (columns,)."""
        places = torch.from_numpy(np.concatenate(self.places))
        row, column = places // max(1, self.columns), places % max(1, self.columns)
        order = column.argsort(stable=True)
        return torch.cat(self.values)[order], row[order], column.bincount(minlength=self.columns)
