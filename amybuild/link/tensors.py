"""Safetensors files as memory maps: the tensors of a folder in file order, read in place, their pages given back."""

from __future__ import annotations

import json
import math
import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import ActionError
from amybuild.value import value

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS: Mapping[str, np.dtype[Any]] = {  # numpy has no bfloat16: its bits are the high half of a float32
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_MAX_HEADER = 100_000_000
_PAGE = mmap.PAGESIZE

if sys.byteorder != "little":
    raise ImportError("safetensors files are little-endian, and so must the machine be")


def extent(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor as a matrix: (rows, columns) = (first axis, all others); a vector or a scalar is one row."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


@value
class Stored:
    """A tensor of a safetensors file: name, dtype code (`BF16` …), shape, and its bytes [start, stop) in the file."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def is_float(self) -> bool:
        """Whether it is float16, bfloat16, float32 or float64: differences can be taken of it and added to it."""
        return self.code in FLOATS

    def check_float(self, where: str = "base") -> None:
        """Raise `ActionError` when it is anything else (quantised, an integer)."""
        if not self.is_float:
            raise ActionError(
                f"cannot add task vectors to '{self.name}': it is stored as {self.code}",
                where=where,
                remedy="link over a float32, float16 or bfloat16 checkpoint of the base and quantise the result",
            )


@value
class Shard:
    """One safetensors file: its path, the length of what precedes the tensors' bytes, its tensors in file order."""

    path: Path
    head: int
    tensors: tuple[Stored, ...]

    @cached_property
    def map(self) -> mmap.mmap:
        """The file, mapped read-only when first asked for; it lives as long as this value or an array on it does."""
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def weights(self) -> Mapping[str, Weight]:
        """Its float tensors by name, each of them one value for whoever asks."""
        return {stored.name: Weight(self, stored) for stored in self.tensors if stored.is_float}

    def raw(self, stored: Stored) -> NDArray[np.uint8]:
        """A tensor's bytes, in place."""
        return np.frombuffer(self.map, np.uint8, stored.stop - stored.start, stored.start)


@value
class Weight:
    """A float tensor in a mapped file."""

    shard: Shard
    stored: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def code(self) -> str:
        """Its dtype as safetensors names it."""
        return self.stored.code

    @cached_property
    def array(self) -> NDArray[Any]:
        """Its values in place, [rows, columns]: float16, float32, float64, or bfloat16 as uint16 bits."""
        rows, columns = extent(self.stored.shape)
        kind = FLOATS[self.stored.code]
        flat = np.frombuffer(self.shard.map, kind, rows * columns, self.stored.start)
        return (flat if flat.flags.aligned else flat.copy()).reshape(rows, columns)

    def release(self, start: int, stop: int) -> None:
        """Give the pages of rows [start, stop) back; touching them again reads them again."""
        row = self.array.shape[1] * self.array.itemsize
        first = (self.stored.start + start * row) // _PAGE * _PAGE
        length = self.stored.start + stop * row - first
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.shard.map.madvise(mmap.MADV_DONTNEED, first, length)


def read_shards(folder: Path, where: str = "base", remedy: str = "import the base again") -> list[Shard]:
    """The shards of a Hugging Face folder (`model.safetensors`, or what its index names), in order of file name."""
    names = [SINGLE]
    if not (folder / SINGLE).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_bytes())["weight_map"]
            names = sorted({str(name) for name in weight_map.values()})
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            names = []
    if not names or any("/" in name or not (folder / name).is_file() for name in names):
        raise ActionError(
            f"it has neither a {SINGLE} nor a complete set of shards",
            where=where,
            remedy=f"{remedy}; pickled weights (.bin) are not read",
        )
    shards = [read_shard(folder / name, where, remedy) for name in names]
    seen: set[str] = set()
    for _, stored in all_tensors(shards):
        if stored.name in seen:
            raise ActionError(f"two shards hold a tensor '{stored.name}'", where=where, remedy=remedy)
        seen.add(stored.name)
    return shards


def read_shard(path: Path, where: str = "base", remedy: str = "import the base again") -> Shard:
    """Parse a safetensors header (offsets and sizes are checked against each other and the file's size)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise ValueError
            entries = json.loads(file.read(length))
        head = 8 + length
        tensors = [
            Stored(name, entry["dtype"], tuple(entry["shape"]), *(head + offset for offset in entry["data_offsets"]))
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
        tensors.sort(key=lambda stored: (stored.start, stored.stop, stored.name))
        edges = [head, *(stored.stop for stored in tensors)]
        if [stored.start for stored in tensors] != edges[:-1] or edges[-1] != path.stat().st_size:
            raise ValueError
        for stored in tensors:
            size = math.prod(stored.shape) * FLOATS[stored.code].itemsize if stored.code in FLOATS else None
            if size is not None and size != stored.stop - stored.start:
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ActionError(f"{path.name} is not a readable safetensors file", where=where, remedy=remedy) from None
    return Shard(path, head, tuple(tensors))


def all_tensors(shards: Sequence[Shard]) -> Iterator[tuple[Shard, Stored]]:
    """Every tensor with its shard, in file order."""
    for shard in shards:
        for stored in shard.tensors:
            yield shard, stored
