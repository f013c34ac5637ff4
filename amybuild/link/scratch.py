"""Arrays that a thread of a link works in, used again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.link.delta import F32
from amybuild.link.kernels import PART

F64 = NDArray[np.float64]
Room = tuple[F32, F64, NDArray[np.int16]]
_LINE = 64  # bytes of a line of the cache


class Scratch:
    """Arrays of one thread that are used again and again."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}
        self._rooms: dict[int, Room] = {}

    def vector(self, name: str, size: int, kind: Any = np.float64) -> NDArray[Any]:
        """An array [size] with undefined content."""
        found = self._arrays.get(name)
        if found is None or found.size < size:
            found = self._arrays[name] = on_a_line((size,), kind)
        return found[:size]

    def room(self, vectors: int) -> Room:
        """What the fused passes need beside their arguments."""
        if vectors not in self._rooms:
            narrow = on_a_line((max(vectors, 4) + 1, PART), np.float32)
            wide = on_a_line((vectors + 3, PART), np.float64)
            self._rooms[vectors] = narrow, wide, on_a_line((2 * vectors, PART), np.int16)
        return self._rooms[vectors]

    def matrix(self, name: str, rows: int, columns: int) -> F32:
        """A float32 array [rows, columns] with undefined content."""
        return self.vector(name, rows * columns, np.float32).reshape(rows, columns)


def on_a_line(shape: Sequence[int], kind: Any) -> NDArray[Any]:
    """An array with undefined content that begins with a line of the cache.

    Else every wide store touches two lines: a pass with its counts then takes a quarter longer.
    """
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    found = np.empty(size + _LINE, np.uint8)
    start = -found.__array_interface__["data"][0] % _LINE
    lined: NDArray[Any] = found[start : start + size].view(kind).reshape(shape)
    return lined
