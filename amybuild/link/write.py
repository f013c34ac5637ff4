"""Checkpoints written as streams: the base's layout, header included, with the bytes of some tensors replaced."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Container, Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import ActionError
from amybuild.link.tensors import Shard, Stored, Weight

_CHUNK = 1 << 20
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


class Rewrite:
    """`shard` written anew to `out` in the same layout: threads put what changes, the rest is copied."""

    def __init__(self, shard: Shard, out: Path) -> None:
        self._shard = shard
        self._file = out.open("wb", buffering=0)
        with contextlib.suppress(OSError, AttributeError):  # one request for all blocks: a third of the cost of writing
            os.posix_fallocate(self._file.fileno(), 0, shard.path.stat().st_size)

    def put(self, stored: Stored, start: int, values: NDArray[Any]) -> None:
        """Write a tensor's new values, flat in its storage type, from its entry `start` on; from any thread.

        A thread that writes what it has just computed finds it in its cache, another one would not.
        """
        place, rest = stored.start + start * values.itemsize, values.data.cast("B")
        assert place + len(rest) <= stored.stop, stored.name
        while rest:
            written = os.pwrite(self._file.fileno(), rest, place)
            place, rest = place + written, rest[written:]

    def copy(self, changed: Container[str]) -> None:
        """Copy the header and every tensor that is not in `changed`."""
        end = self._shard.tensors[-1].stop if self._shard.tensors else self._shard.head
        with FileIO(self._shard.path) as source:
            copied = 0
            for stored in self._shard.tensors:
                if stored.name in changed:
                    self._copy(source, copied, stored.start)
                    copied = stored.stop
            self._copy(source, copied, end)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _copy(self, source: FileIO, start: int, stop: int) -> None:
        chunk = memoryview(bytearray(min(max(0, stop - start), _CHUNK)))
        while start < stop:
            source.seek(start)
            count = source.readinto(chunk[: stop - start])
            if not count:
                raise ActionError("a weight file ends too early", where="base", remedy="import the base again")
            start += os.pwrite(self._file.fileno(), chunk[:count], start)


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
