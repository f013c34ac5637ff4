"""The loops that only look: counts for exact selection, inner products and signs for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from amybuild.link.kernels import PART, bits_of
from amybuild.link.machine import compiled

_STRETCH = 64
_SUMS = {"reassoc", "contract", "nsz"}  # wide sums; their order is fixed by the compiled code, not by the caller


@compiled("f4[:]", "f4", "f4", "i8[:]")
def count(values: Any, low: Any, high: Any, found: Any) -> None:
    """Add to found [2] how many |value| are above `high`, and how many at or above `low`: float32 [n]."""
    for start in range(0, values.size, 4096):
        part = values[start : start + 4096]
        more, same = np.int32(0), np.int32(0)
        for j in range(part.size):
            size = abs(part[j])
            more += np.int32(1) if size > high else np.int32(0)
            same += np.int32(1) if size >= low else np.int32(0)
        found[0] += more
        found[1] += same


@compiled("f4[:]", "f4", "f4", "f4[:]", "i8[:]")
def collect(values: Any, low: Any, high: Any, found: Any, next: Any) -> None:
    """Put the |value| in [low, high] into `found` from place next[0] on, which is moved: float32 [n].

    `found` has room for them and one more. Stretches without any are skipped at the speed of `count`.
    """
    at = next[0]
    for start in range(0, values.size, _STRETCH):
        part = values[start : start + _STRETCH]
        inside = np.int32(0)
        for j in range(part.size):
            size = abs(part[j])
            inside += np.int32(1) if (size >= low) & (size <= high) else np.int32(0)
        if inside:
            for j in range(part.size):
                size = abs(part[j])
                found[at] = size
                at += np.int64(1) if (size >= low) & (size <= high) else np.int64(0)
    next[0] = at


@compiled("f4[:]", "i8[:]")
def high_bits(values: Any, bins: Any) -> None:
    """Add to bins [32768] the counts of the upper 15 bits of |value| (they sort as the magnitudes do): float32 [n]."""
    for j in range(values.size):
        bins[(bits_of(values[j]) & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1


@compiled("f4[:]", "u8", "i8[:]")
def low_bits(values: Any, upper: Any, bins: Any) -> None:
    """Add to bins [65536] the counts of the lower 16 bits of the |value| whose upper bits are `upper`: float32 [n]."""
    for j in range(values.size):
        word = bits_of(values[j]) & np.uint32(0x7FFFFFFF)
        if np.uint64(word >> np.uint32(16)) == upper:
            bins[word & np.uint32(0xFFFF)] += 1


@compiled("f4[:,:]", "f8[:,:]", "f8[:]", fastmath=_SUMS)
def products(deltas: Any, gram: Any, mass: Any) -> None:
    """Add the inner products to gram [n, n] (lower half) and the sums of |delta| to mass [n]: float32 [n, m]."""
    n, m = deltas.shape
    for start in range(0, m, PART):
        for i in range(n):
            one = deltas[i, start : start + PART]
            size = np.float32(0)
            for j in range(one.size):
                size += abs(one[j])
            mass[i] += size
            for k in range(i + 1):
                other = deltas[k, start : start + PART]
                dot = np.float32(0)
                for j in range(one.size):
                    dot += one[j] * other[j]
                gram[i, k] += dot


@compiled(fastmath=_SUMS)
def signs(deltas: Any, both: Any, same: Any, mass: Any, work: Any) -> None:
    """Count over the entries that are not zero: float32 [n, PART].

    both [n, n]: entries two vectors have (diagonal: one has); same [n, n]: those with like signs minus those with
    opposite ones; mass [n]: sums of |delta|. Lower halves only; signs before the alphas. work: int16 [2 n, PART].
    """
    n = deltas.shape[0]
    sign, there = work[:n], work[n:]
    one, two = np.int16(1), np.uint32(1)
    for i in range(n):
        row, s, t = deltas[i], sign[i], there[i]
        size = np.float32(0)
        for j in range(row.size):
            size += abs(row[j])
        mass[i] += size
        for j in range(row.size):
            present = np.int16(row[j] != 0)
            t[j] = present
            s[j] = np.int16(present * np.int16(one - np.int16(bits_of(row[j]) >> np.uint32(31) << two)))
        for k in range(i + 1):
            other, there_too = sign[k], there[k]
            alike, counted = np.int16(0), np.int16(0)
            for j in range(row.size):
                alike = np.int16(alike + np.int16(s[j] * other[j]))
                counted = np.int16(counted + np.int16(t[j] & there_too[j]))
            same[i, k] += alike
            both[i, k] += counted


@compiled(fastmath=_SUMS)
def agreeing(deltas: Any, alphas: Any, merged: Any, mass: Any, way: Any) -> None:
    """Add to mass [n] the |delta| whose weighted sign the merge has: float32 [n, PART], float64 [n], [m <= PART].

    way: float32 [PART], for this loop's own use.
    """
    for j in range(merged.size):
        way[j] = np.float32(1 if merged[j] > 0 else 0) - np.float32(1 if merged[j] < 0 else 0)
    for i in range(deltas.shape[0]):
        row = deltas[i]
        turn, size = np.float32(1 if alphas[i] > 0 else -1), np.float32(0)
        for j in range(merged.size):
            size += max(row[j] * turn * way[j], np.float32(0))
        mass[i] += size
