"""Checkpoints as streams: read safetensors tensor by tensor, write the same layout with some tensors changed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from amybuild.errors import ActionError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 8 << 20
_MAX_HEADER = 100_000_000

Change = Callable[["Stored"], Iterable[Tensor] | None]


@dataclass(frozen=True)
class Stored:
    """A tensor of a safetensors file: name, dtype code (`BF16` …), shape, and its bytes [start, stop) in the file."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dtype(self) -> torch.dtype:
        """Its torch dtype; `ActionError` when task vectors cannot be added to it."""
        if self.code in _FLOATS:
            return _FLOATS[self.code]
        raise ActionError(
            f"cannot add task vectors to '{self.name}': it is stored as {self.code}",
            where="base",
            remedy="link over a float32, float16 or bfloat16 checkpoint of the base and quantise the result",
        )


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its path, the length of what precedes the tensors' bytes, its tensors in file order."""

    path: Path
    head: int
    tensors: tuple[Stored, ...]


def read_shards(folder: Path) -> list[Shard]:
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
            f"the base has neither a {SINGLE} nor a complete set of shards",
            where="base",
            remedy="import the base again; pickled weights (.bin) are not read",
        )
    shards = [read_shard(folder / name) for name in names]
    seen: set[str] = set()
    for stored in (stored for shard in shards for stored in shard.tensors):
        if stored.name in seen:
            raise ActionError(f"two shards hold a tensor '{stored.name}'", where="base", remedy="import the base again")
        seen.add(stored.name)
    return shards


def read_shard(path: Path) -> Shard:
    """Parse a safetensors header (offsets are checked against the file's size)."""
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
            size = math.prod(stored.shape) * _FLOATS[stored.code].itemsize if stored.code in _FLOATS else None
            if size is not None and size != stored.stop - stored.start:
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ActionError(
            f"{path.name} is not a readable safetensors file", where="base", remedy="import the base again"
        ) from None
    return Shard(path, head, tuple(tensors))


def write_shard(shard: Shard, out: Path, change: Change) -> None:
    """Write `shard` to `out` in the same layout, header included.

    `change(tensor)` gives None (its bytes are copied) or its new values: blocks [rows, …] of its dtype, in row order,
    that cover it.
    """
    with shard.path.open("rb") as source, out.open("wb") as target:
        _copy(source, target, shard.head)
        for stored in shard.tensors:
            blocks = change(stored)
            size = stored.stop - stored.start
            if blocks is None:
                _copy(source, target, size)
                continue
            written = sum(target.write(_bytes_of(block)) for block in blocks)
            assert written == size, stored.name
            source.seek(size, os.SEEK_CUR)


def add_rounded(base: Tensor, delta: Tensor) -> Tensor:
    """base + delta in float32 (float64 for a float64 base), rounded once to the base's dtype (nearest, ties to even).

    Where delta is zero the base's bits stay as they are (-0.0 + 0.0 would be +0.0).
    """
    wide = torch.float64 if base.dtype is torch.float64 else torch.float32
    return torch.where(delta == 0, base, (base.to(wide) + delta.to(wide)).to(base.dtype))


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        chunk = source.read(min(count, _CHUNK))
        if not chunk:
            raise ActionError("a weight file ends too early", where="base", remedy="import the base again")
        target.write(chunk)
        count -= len(chunk)


def read_rows(source: BinaryIO, stored: Stored, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of a tensor from its open shard, in its dtype."""
    shape = (stop - start, *stored.shape[1:])
    row = math.prod(stored.shape[1:]) * stored.dtype.itemsize
    source.seek(stored.start + start * row)
    data = bytearray(source.read((stop - start) * row))
    if len(data) != (stop - start) * row:
        raise ActionError("a weight file ends too early", where="base", remedy="import the base again")
    return torch.frombuffer(data, dtype=stored.dtype).view(shape)


def _bytes_of(values: Tensor) -> memoryview:
    # numpy has no bfloat16: hand out the bytes, not the numbers
    return values.contiguous().view(torch.uint8).numpy().data.cast("B")
