"""One weight's difference to the base, as what gives its rows: factors, two checkpoints, an array, a sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from amybuild.link.tensors import Weight, extent
from amybuild.value import replace, value

F32 = NDArray[np.float32]
SPAN = 1 << 22  # entries after which pages are given back, so that a huge tensor is never in memory at once


@runtime_checkable
class Delta(Protocol):
    """What the linker asks of a difference. Rows are those of `extent(shape)`: a 1-D tensor is one row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it belongs to."""

    def rows(self, start: int, stop: int) -> F32:
        """The dense rows [start, stop), float32 [stop - start, columns]. The same values whatever the range asked."""


@value
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
        out = np.empty((stop - start, self.right.shape[1]), np.float32)
        fill(self, start, stop, out)
        return out

    def __mul__(self, factor: float) -> LowRank:
        return replace(self, scale=self.scale * factor)

    __rmul__ = __mul__


@value
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


@value
class Difference:
    """scale * (tuned - base), both on disk; in float32, so exact for two bfloat16 weights of like size."""

    tuned: Weight
    base: Weight
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tuned.shape

    def rows(self, start: int, stop: int) -> F32:
        return self.at(self.tuned.array[start:stop], self.base.array[start:stop])

    def bits(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows [start, stop) of both as they are stored, flat."""
        return self.tuned.array[start:stop].reshape(-1), self.base.array[start:stop].reshape(-1)

    def at(self, tuned: NDArray[Any], base: NDArray[Any]) -> F32:
        """The difference of some stored values of each; float64 ones are subtracted as they are."""
        if "F64" in (self.tuned.code, self.base.code):
            found = (_values(self.tuned, tuned) - _values(self.base, base)).astype(np.float32)
        else:
            found = _widened(self.tuned, tuned) - _widened(self.base, base)
        if self.scale != 1.0:
            found = found * np.float32(self.scale)
        return np.asarray(found, np.float32)


@value
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


def floats(weight: Weight, start: int, stop: int) -> F32:
    """Rows [start, stop) of a stored weight as float32."""
    return _widened(weight, weight.array[start:stop])


def dense(delta: Delta) -> F32:
    """The whole difference, float32, in its weight's shape."""
    return delta.rows(0, extent(delta.shape)[0]).reshape(delta.shape)


def fill(delta: Delta, start: int, stop: int, out: F32) -> None:
    """Write rows [start, stop) into `out`, flat float32: `rows` without a copy where that matters."""
    from amybuild.link.kernels import product, subtract_bf16  # numba: not for those who only do algebra

    if isinstance(delta, LowRank):
        product(
            delta.left[start:stop],
            delta.right,
            delta.scale,
            out.reshape(stop - start, delta.right.shape[1]),
        )
    elif of_bits(delta):
        subtract_bf16(*delta.bits(start, stop), out)
    elif (held := _in_memory(delta)) is not None:
        columns = extent(delta.shape)[1]
        out[:] = held[start * columns : stop * columns]
    else:
        out[:] = delta.rows(start, stop).reshape(-1)


def of_bits(delta: Delta) -> TypeGuard[Difference]:
    """Whether it is nothing but the difference of two bfloat16 weights, which the kernels take from their bits."""
    return isinstance(delta, Difference) and delta.scale == 1.0 and delta.tuned.code == delta.base.code == "BF16"


def sample(delta: Delta, stride: int) -> F32:
    """The entries at the flat places 0, stride, 2 * stride …, as `rows` gives them."""
    rows, columns = extent(delta.shape)
    if isinstance(delta, LowRank):
        from amybuild.link.kernels import product_at

        out = np.empty(-(-rows * columns // stride), np.float32)
        product_at(delta.left, delta.right, delta.scale, stride, out)
        return out
    if isinstance(delta, Difference):
        tuned, base = delta.tuned.array.reshape(-1), delta.base.array.reshape(-1)
        found = []
        for first in range(0, tuned.size, SPAN):  # single entries bring many pages with them
            places = slice(first + -first % stride, first + SPAN, stride)
            found.append(delta.at(tuned[places], base[places]))
            if tuned.size > SPAN:
                release(delta, first // columns, min(rows, -(-(first + SPAN) // columns)))
        return np.concatenate(found or [_NOTHING])
    if (held := _in_memory(delta)) is not None:
        return held[::stride]
    return np.concatenate([block[-start % stride :: stride] for start, block in _flat_blocks(delta)] or [_NOTHING])


def blocks(delta: Delta, size: int) -> Iterator[F32]:
    """All entries in order as flat float32 arrays, about `size` entries each; each may be overwritten by the next.

    Pages of mapped files are given back behind it when the tensor is large.
    """
    if (held := _in_memory(delta)) is not None:
        for start in range(0, held.size, 8 * size):
            yield held[start : start + 8 * size]
        return
    rows, columns = extent(delta.shape)
    step = max(1, size // max(1, columns))
    buffer = np.empty(min(step, rows) * columns, np.float32)
    behind = 0
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        out = buffer[: (stop - start) * columns]
        fill(delta, start, stop, out)
        yield out
        if (stop - behind) * columns >= SPAN:
            release(delta, behind, stop)
            behind = stop


def stretches(delta: Delta) -> Iterator[tuple[int, int]]:
    """Ranges that cover the rows, of about `SPAN` entries each; of several, pages are given back behind each."""
    rows, columns = extent(delta.shape)
    step = max(1, SPAN // max(1, columns))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, stop
        if rows > step:
            release(delta, start, stop)


def release(delta: Delta, start: int, stop: int) -> None:
    """Give back the mapped pages of rows [start, stop)."""
    for weight in mapped(delta):
        weight.release(start, stop)


def mapped(delta: Delta) -> Iterator[Weight]:
    """The weights on disk that a difference is taken of."""
    for part in _parts(delta):
        if isinstance(part, Difference):
            yield part.tuned
            yield part.base
        elif isinstance(part, Dense) and isinstance(part.values, Weight):
            yield part.values


def scaled(delta: Delta, factor: float) -> Delta:
    """factor * delta; the factor is applied last, in float32."""
    if isinstance(delta, Sum):
        return Sum(tuple(scaled(part, factor) for part in delta.parts))
    assert isinstance(delta, LowRank | Dense | Difference)
    return replace(delta, scale=delta.scale * factor)


def added(one: Delta, other: Delta) -> Delta:
    """The exact sum: factors are concatenated (ranks add up, scales go into `left`), all else is summed row by row."""
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        left = np.hstack([part.left * np.float32(part.scale) for part in (one, other)])
        return LowRank(np.ascontiguousarray(left), np.vstack([one.right, other.right]))
    return Sum((*_parts(one), *_parts(other)))


_NOTHING = np.empty(0, np.float32)


def _parts(delta: Delta) -> Sequence[Delta]:
    return delta.parts if isinstance(delta, Sum) else (delta,)


def _in_memory(delta: Delta) -> F32 | None:
    if not isinstance(delta, Dense) or delta.scale != 1.0 or not isinstance(delta.values, np.ndarray):
        return None
    plain = delta.values.dtype == np.float32 and delta.values.flags.c_contiguous
    return delta.values.reshape(-1) if plain else None


def _values(weight: Weight, stored: NDArray[Any]) -> NDArray[Any]:
    if weight.code == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored


def _widened(weight: Weight, stored: NDArray[Any]) -> F32:
    return np.asarray(_values(weight, stored), np.float32)


def _flat_blocks(delta: Delta) -> Iterator[tuple[int, F32]]:
    start = 0
    for block in blocks(delta, 1 << 17):
        yield start, block
        start += block.size
