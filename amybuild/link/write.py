"""Checkpoints written as streams: the base's layout, header included, with the bytes of some tensors replaced."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import ActionError
from amybuild.link.tensors import Shard, Stored, Weight

_CHUNK = 8 << 20
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")

Change = Callable[[Stored], Iterable[NDArray[Any]] | None]


def write_shard(shard: Shard, out: Path, change: Change) -> None:
    """Write `shard` to `out` in the same layout.

    `change(tensor)` gives None (its bytes are copied) or its new values: arrays in its storage type, in order, that
    cover it.
    """
    with shard.path.open("rb") as source, out.open("wb") as target:
        copied = 0  # what of the source is in the target
        for stored in shard.tensors:
            pieces = change(stored)
            if pieces is not None:
                _copy(source, target, copied, stored.start)
                written = sum(target.write(piece.data.cast("B")) for piece in pieces)
                assert written == stored.stop - stored.start, stored.name
                copied = stored.stop
        _copy(source, target, copied, shard.tensors[-1].stop if shard.tensors else shard.head)


def write_floats(
    out: Path, shapes: Mapping[str, tuple[int, ...]], values: Callable[[str], Iterable[NDArray[np.float32]]]
) -> None:
    """Write a safetensors file of float32 tensors, in order of name; `values(name)` gives a tensor's parts in order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * math.prod(shapes[name])
        entries[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with out.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in sorted(shapes):
            written = sum(file.write(np.ascontiguousarray(part, "<f4").data.cast("B")) for part in values(name))
            assert written == 4 * math.prod(shapes[name]), name


def add_rounded(
    weight: Weight, start: int, stop: int, merged: NDArray[np.float64], strength: float, out: NDArray[Any]
) -> None:
    """Rows [start, stop) of a weight + strength * merged in float64, rounded once to its dtype (nearest, ties to even).

    Where there is nothing to add the base's bits stay (-0.0 + 0.0 would be +0.0). `out`: flat, in the storage type.
    """
    from amybuild.link.kernels import add_bf16

    base = weight.array[start:stop].reshape(-1)
    if weight.code == "BF16":
        add_bf16(base, merged, strength, out)
        return
    extra = strength * merged
    with np.errstate(over="ignore"):
        out[:] = np.where(extra == 0, base, (base + extra).astype(base.dtype))


def copy_others(base: Path, out: Path, reserved: Iterable[str]) -> None:
    """Copy the base's files that are no weights, nor its card, hidden files, or names in `reserved`."""
    left = {"README.md", *reserved}
    for path in sorted(base.rglob("*")):
        inside = path.relative_to(base)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and not hidden and path.suffix not in _NOT_COPIED and path.name not in left:
            (out / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / inside)


def _copy(source: BinaryIO, target: BinaryIO, start: int, stop: int) -> None:
    source.seek(start)
    while start < stop:
        chunk = source.read(min(stop - start, _CHUNK))
        if not chunk:
            raise ActionError("a weight file ends too early", where="base", remedy="import the base again")
        target.write(chunk)
        start += len(chunk)
