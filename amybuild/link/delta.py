"""One weight's difference to the base, as whatever gives its rows: factors, two checkpoints on disk, an array, a sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from amybuild.link.tensors import Weight, extent

F32 = NDArray[np.float32]


@runtime_checkable
class Delta(Protocol):
    """What the linker asks of a difference. Rows are those of `extent(shape)`: a 1-D tensor is one row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it belongs to."""

    def rows(self, start: int, stop: int) -> F32:
        """The dense rows [start, stop), float32 [stop - start, columns]. The same values whatever the range asked."""


@dataclass(frozen=True)
class LowRank:
    """scale * (left @ right): left [out, r], right [r, in], both float32 and C-contiguous."""

    left: F32
    right: F32
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.left.shape[0], self.right.shape[1]

    def rows(self, start: int, stop: int) -> F32:
        """Each entry is the sum over the rank in ascending order, then times the scale, in float32."""
        return (self.left[start:stop] @ self.right) * np.float32(self.scale)

    def __mul__(self, factor: float) -> LowRank:
        return LowRank(self.left, self.right, self.scale * factor)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Dense:
    """A difference held as an array of any float dtype (or bfloat16 bits in a mapped `Weight`), times a scale."""

    values: NDArray[Any] | Weight
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def rows(self, start: int, stop: int) -> F32:
        if isinstance(self.values, Weight):
            found = floats(self.values, start, stop)
        else:
            found = self.values.reshape(extent(self.shape))[start:stop].astype(np.float32)
        return found if self.scale == 1.0 else found * np.float32(self.scale)

    def __mul__(self, factor: float) -> Dense:
        return Dense(self.values, self.scale * factor)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Difference:
    """scale * (tuned - base), both on disk; in float32, so exact for two bfloat16 weights of like size."""

    tuned: Weight
    base: Weight
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tuned.shape

    def rows(self, start: int, stop: int) -> F32:
        found = floats(self.tuned, start, stop) - floats(self.base, start, stop)
        return found if self.scale == 1.0 else found * np.float32(self.scale)

    def __mul__(self, factor: float) -> Difference:
        return Difference(self.tuned, self.base, self.scale * factor)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Sum:
    """The sum of differences of one weight, in float32, in the order given."""

    parts: tuple[Delta, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    def rows(self, start: int, stop: int) -> F32:
        total = self.parts[0].rows(start, stop)
        for part in self.parts[1:]:
            total = total + part.rows(start, stop)
        return total

    def __mul__(self, factor: float) -> Sum:
        return Sum(tuple(part * factor for part in self.parts))  # type: ignore[operator]

    __rmul__ = __mul__


def floats(weight: Weight, start: int, stop: int) -> F32:
    """Rows [start, stop) of a stored weight as float32."""
    rows = weight.array[start:stop]
    if weight.stored.code == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)


def dense(delta: Delta) -> F32:
    """The whole difference, float32, in its weight's shape."""
    return delta.rows(0, extent(delta.shape)[0]).reshape(delta.shape)


def added(one: Delta, other: Delta) -> Delta:
    """The exact sum: factors are concatenated (ranks add up, scales go into `left`), all else is summed row by row."""
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        left = np.hstack([part.left * np.float32(part.scale) for part in (one, other)])
        return LowRank(np.ascontiguousarray(left), np.vstack([one.right, other.right]))
    return Sum((*_parts(one), *_parts(other)))


def _parts(delta: Delta) -> Sequence[Delta]:
    return delta.parts if isinstance(delta, Sum) else (delta,)
