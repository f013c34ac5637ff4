"""Activations of many texts at one block, read in batches, so that memory holds a batch of them and not all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

BATCH = 1024  # rows


@dataclass(frozen=True)
class Table:
    """Rows [n, hidden]: those that `index` [n], ascending, names among the rows that `read(start, stop)` gives.

    Sums over batches are float64. Batches end at fixed places of what is read, so the same rows in the same order give
    the same bits, in memory or in a file; in another order, or with another BATCH, they differ by rounding only.
    """

    read: Callable[[int, int], NDArray[Any]]
    index: NDArray[np.int64]
    hidden: int

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Table:
        """Rows that are in memory."""
        return cls(lambda start, stop: rows[start:stop], np.arange(len(rows)), rows.shape[1])

    @classmethod
    def stored(cls, path: Path, name: str) -> Table:
        """A tensor [n, hidden] of a safetensors file, which must stay as it is; in memory where it is one batch."""
        from safetensors import safe_open

        def read(start: int, stop: int) -> NDArray[Any]:
            with safe_open(path, "np") as file:
                found: NDArray[Any] = file.get_slice(name)[start:stop]
            return found

        with safe_open(path, "np") as file:
            count, hidden = file.get_slice(name).get_shape()
        return cls.of(read(0, count)) if count <= BATCH else cls(read, np.arange(count), hidden)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, keep: NDArray[np.bool_]) -> Table:
        """Only the rows where `keep` [n] is true; nothing is read."""
        return replace(self, index=self.index[keep])

    def batches(self) -> Iterator[tuple[slice, Rows]]:
        """(which of the n rows, they as float64), one batch after another."""
        place = 0
        while place < len(self.index):
            first = int(self.index[place])
            end = int(np.searchsorted(self.index, first - first % BATCH + BATCH))
            here = self.index[place:end]
            rows = self.read(first, int(here[-1]) + 1)[here - first]
            yield slice(place, end), rows.astype(np.float64)
            place = end

    def whole(self) -> Rows:
        """All rows at once: for as many as a matrix [hidden, hidden] has, or where nothing less will do."""
        found = np.empty((len(self), self.hidden))
        for place, rows in self.batches():
            found[place] = rows
        return found

    def weighed(self, weights: Rows) -> Rows:
        """[k, hidden]: the sums of the rows by `weights` [n, k]."""
        found = np.zeros((weights.shape[1], self.hidden))
        for place, rows in self.batches():
            found += weights[place].T @ rows
        return found

    def times(self, directions: Rows) -> Rows:
        """[n, k]: the projections of the rows on `directions` [k, hidden]."""
        found = np.empty((len(self), len(directions)))
        for place, rows in self.batches():
            found[place] = rows @ directions.T
        return found

    def spectrum(self, centre: Rows, weights: Rows) -> tuple[Rows, Rows]:
        """Eigenvalues [r], ascending, and eigenvectors [r, hidden] of sum_i w_i (x_i - c)(x_i - c)', without zero ones.

        `centre` c [hidden], `weights` w [n] of 0 or more. No more rows than they are wide are taken at once (the Gram
        matrix has the same spectrum and is smaller); of more the outer products are summed in batches.
        """
        if len(self) <= self.hidden:
            rows = (self.whole() - centre) * np.sqrt(weights)[:, None]
            values, vectors = np.linalg.eigh(rows @ rows.T)
            keep = values > values[-1] * 1e-10
            return values[keep], (vectors[:, keep] / np.sqrt(values[keep])).T @ rows
        scatter = np.zeros((self.hidden, self.hidden))
        for place, batch in self.batches():
            rows = (batch - centre) * np.sqrt(weights[place])[:, None]
            scatter += rows.T @ rows
        values, vectors = np.linalg.eigh(scatter)
        keep = values > values[-1] * 1e-10
        return values[keep], vectors[:, keep].T
