"""The k largest of many numbers on a processor, exactly: of equal ones those of lowest index.

Two levels, ours after approximate methods that keep one number per group (Chern et al., 2206.14286), but exact. A
group is MEMBERS neighbours. The k-th largest of any of the groups' maxima is a bound: k numbers reach it, so every
number of the answer does, ties included, and lies in a group whose maximum does. There are few such groups, and what
reaches the bound in them is sorted by number and index. What comes after the first numbers has to exceed the k-th
largest so far, because of equal ones the earlier wins.

Floats are compared as integers of their bits (keys.py); where a bound is not positive the bits are mended first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .keys import HOT_BYTES, INTEGERS, Extremes, rising

MEMBERS = 8
"""Numbers in a group."""
COARSE = 8
"""The first bound is the k-th largest of COARSE · k maxima: fewer are found sooner and bind less."""
CROWD = 8
"""Columns in which more than CROWD · k groups reach the bound, by ties, are sorted whole."""
SORTED_AT_ONCE = 16
"""Columns sorted whole at one time."""
VALUE = (1 << 32) - 1
HIGHEST = (1 << 31) - 1


class Ranking:
    """The k largest of each column of a matrix that comes some rows at a time, and of which nothing else is kept.

    Of each candidate one integer is kept, which says column, rank and row, so that sorting them puts all in order.
    """

    def __init__(self, k: int, rows: int, columns: int, dtype: torch.dtype) -> None:
        """
        Args:
            k: 1 to rows.
            rows, columns: of the matrix; at most 2^30 numbers.
            dtype: one of `INTEGERS`.
        """
        self.k, self.columns, self.dtype = k, columns, dtype
        self.row_bits = rows.bit_length()
        self.shift = 32 + self.row_bits
        self.seen = 0
        self.order: Any = np.empty((columns, 0), dtype=np.int64)
        """(columns, min(k, seen))"""
        self.bound: Any = None
        """(columns,) what a number has to reach, once there are k."""
        self.waiting: list[Any] = []
        """Candidates that were not yet sorted in among the others: the bound is then lower than it could be."""
        self.extremes = Extremes(dtype)

    def add(self, rows: Tensor) -> None:
        """The next rows (n, columns), contiguous."""
        if rows.numel() == 0:
            return
        keys = rows.view(INTEGERS[self.dtype])
        maxima = self._maxima(keys, self.extremes)
        bound = self._first_bound(maxima) if self.bound is None else self.bound
        if bound.min() <= 0:
            keys = rising(keys)
            maxima = self._maxima(keys, Extremes(self.dtype))  # which mean nothing of mended bits
            bound = self._first_bound(maxima) if self.bound is None else self.bound
        self.waiting.append(self._reaching(keys.numpy(), maxima.numpy(), bound))
        self.seen += len(rows)
        if self.bound is None or sum(map(len, self.waiting)) >= self.k * self.columns:
            self._merge()

    def largest(self) -> tuple[Tensor, Tensor]:
        """The k largest of each column, falling, and the rows that they are in, (columns, k), if all are finite."""
        self._merge()
        order = torch.from_numpy(self.order).view(self.columns, self.k)
        keys = (HIGHEST - (order >> self.row_bits & VALUE)).to(INTEGERS[self.dtype])
        return rising(keys).view(self.dtype), order & (1 << self.row_bits) - 1

    def _maxima(self, keys: Tensor, extremes: Extremes) -> Tensor:
        """The largest of each whole group of rows, (n // MEMBERS, columns)."""
        maxima = keys.new_empty(len(keys) // MEMBERS, self.columns)
        step = max(1, HOT_BYTES // (MEMBERS * self.columns * keys.element_size()))
        for at in range(0, len(maxima), step):
            into = maxima[at : at + step]
            some = keys[at * MEMBERS : (at + len(into)) * MEMBERS]
            torch.amax(some.view(-1, MEMBERS, self.columns), 1, out=into)
            extremes.look(some.numpy(), into.numpy())
        extremes.look(keys[len(maxima) * MEMBERS :].numpy())
        return maxima

    def _first_bound(self, maxima: Tensor) -> Any:
        """Of each column a number that k maxima reach, (columns,); the lowest there is if there are not as many."""
        groups = len(maxima)
        if groups < self.k:
            return np.full(self.columns, torch.iinfo(maxima.dtype).min, dtype=maxima.numpy().dtype)
        folds = max(1, groups // (COARSE * self.k))
        few = maxima[: groups // folds * folds].view(folds, -1, self.columns).amax(0).T.contiguous()
        # Tens of times as fast as the k largest of torch; a copy, because comparing with every n-th number is slow.
        return np.partition(few.numpy(), -self.k)[:, -self.k].copy()

    def _reaching(self, keys: Any, maxima: Any, bound: Any) -> Any:
        """What of the keys (n, columns) can be among the k largest, one integer each, in no order."""
        reach = maxima >= bound
        found = np.flatnonzero(reach)
        crowd = np.empty((2, 0), dtype=np.int64)
        if len(found) > CROWD * self.k * self.columns:
            crowded = np.flatnonzero(reach.sum(0) > CROWD * self.k)
            if len(crowded):
                reach[:, crowded] = False
                found = np.flatnonzero(reach)
                bound = bound.copy()
                bound[crowded] = np.iinfo(bound.dtype).max
                crowd = self._sorted(keys, crowded)
        numbers, grouped = keys.reshape(-1), len(maxima) * MEMBERS
        group = found // self.columns
        column = found - group * self.columns
        first = group * (MEMBERS * self.columns) + column
        members = np.stack([numbers[m * self.columns :].take(first) for m in range(MEMBERS)])  # (MEMBERS, F)
        inside = np.flatnonzero(members >= bound[column])
        member = inside // max(1, len(found))
        at = inside - member * len(found)
        beyond, where = np.nonzero(keys[grouped:] >= bound)
        row = np.concatenate([group[at] * MEMBERS + member, beyond + grouped, crowd[0]])
        column = np.concatenate([column[at], where, crowd[1]])
        rest = keys[row[len(inside) :], column[len(inside) :]]
        key = np.concatenate([members.reshape(-1)[inside], rest]).astype(np.int64)
        return (column << self.shift) | ((HIGHEST - key) << self.row_bits) | (row + self.seen)

    def _sorted(self, keys: Any, columns: Any) -> Any:
        """Rows and columns (2, F) of the k largest keys of some columns, by sorting them whole."""
        count = min(self.k, len(keys))
        rows = np.empty((len(columns), count), dtype=np.int64)
        for at in range(0, len(columns), SORTED_AT_ONCE):
            part = torch.from_numpy(keys[:, columns[at : at + SORTED_AT_ONCE]]).T
            rows[at : at + SORTED_AT_ONCE] = part.sort(dim=-1, descending=True, stable=True).indices[
                :, :count
            ]
        return np.stack([rows.reshape(-1), columns.repeat(count)])

    def _merge(self) -> None:
        """Keeps the k largest of what was kept and what waits."""
        order = np.concatenate([self.order.reshape(-1), *self.waiting])
        self.waiting = []
        order.sort()
        first = np.searchsorted(order, np.arange(self.columns) << self.shift)
        self.order = order[first[:, None] + np.arange(min(self.k, self.seen))]
        if self.seen >= self.k:
            kth = HIGHEST - (self.order[:, -1] >> self.row_bits & VALUE)
            self.bound = (kth + 1).astype(f"i{self.dtype.itemsize}")
