"""The passes of a link over many entries: a thousand at a time they are differenced, counted, trimmed and joined.

What is found of a thousand entries stays in the first-level cache, and the interpreter is asked once per block.

Shapes: n vectors, m entries. `terms` float64 [7, max(n, 4)]: per vector alpha, share, divisor, least and largest
magnitude that stays, zero from the n-th on; then 0 and infinity. `counts` float64 [3 n + 3, n]: the rows of `Counts`.
`seen`: which counts are to be taken (`RAW` before the trim, `KEPT` after it). `how`: what is made of the entries that
stay (`TOTAL` …). `room`: float32 [max(n, 4) + 1, PART], float64 [n + 3, PART] and int16 [2 n, PART] for the passes' own
use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from amybuild.link.counting import agreeing, count, products, signs
from amybuild.link.kernels import (
    PART,
    add_bf16,
    disjoint,
    disjoint_of_four,
    four_trimmed,
    product,
    subtract_bf16,
    total,
    trim,
)
from amybuild.link.machine import compiled

TOTAL, MASS, COUNT, GIVEN = 0, 1, 2, 3  # the sum; of those with the sign elected by mass, by count; it is there already
RAW, KEPT = 1, 2


@compiled()
def joined(
    deltas: Any, terms: Any, how: Any, seen: Any, counts: Any, way: Any, wide: Any, signed: Any, merged: Any
) -> None:
    """One part of what stays: float32 [n, PART], zero from the m-th on -> float64 [m]."""
    n = deltas.shape[0]
    both, same = counts[n : 2 * n], counts[2 * n : 3 * n]
    if seen & KEPT:
        signs(deltas, both, same, counts[3 * n + 1], signed)
    if how == TOTAL:
        total(deltas, terms[0], merged)
    elif how == MASS and n <= 4:
        disjoint_of_four(deltas, terms[0], terms[1], terms[2], merged)
    elif how != GIVEN:
        disjoint(deltas, terms[0], terms[1], terms[2], how == COUNT, wide, merged)
    agreeing(deltas, terms[0], merged, counts[3 * n + 2], way)


@compiled()
def trimmed(deltas: Any, first: Any, size: Any, terms: Any, seen: Any, counts: Any, part: Any) -> None:
    """The entries [first, first + size), trimmed, and zeros: float32 [n, …] -> [n, PART]."""
    n = deltas.shape[0]
    if seen & RAW:
        for i in range(n):
            row = deltas[i, first : first + size]
            for j in range(PART):
                part[i, j] = row[j] if j < size else np.float32(0)
        products(part, counts[:n], counts[3 * n])
        trim(part, terms[3], terms[4])
        return
    for i in range(n):
        row, low, high = deltas[i, first : first + size], np.float32(terms[3, i]), np.float32(terms[4, i])
        for j in range(size):
            part[i, j] = row[j] if (abs(row[j]) >= low) & (abs(row[j]) <= high) else np.float32(0)
        part[i, size:] = np.float32(0)


@compiled("f4[:,:]", "f8[:,:]", "i8", "i8", "f8[:,:]", "f4[:,:]", "f8[:,:]", "i2[:,:]", "f8[:]")
def join(
    deltas: Any, terms: Any, how: Any, seen: Any, counts: Any, narrow: Any, wide: Any, signed: Any, out: Any
) -> None:
    """The first entries of differences that are there: float32 [n, …] -> float64 [m]."""
    part = narrow[1 : deltas.shape[0] + 1]
    for start in range(0, out.size, PART):
        size = min(PART, out.size - start)
        trimmed(deltas, start, size, terms, seen, counts, part)
        joined(part, terms, how, seen, counts, narrow[0], wide, signed, out[start : start + size])


@compiled(
    *("f4[:,:]", "i8", "u2[:]", "f8[:,:]", "i8", "i8", "f8[:,:]"),
    *("f4[:,:]", "f8[:,:]", "i2[:,:]", "f8", "u2[:]"),
)
def join_onto_bf16(
    deltas: Any,
    tile: Any,
    base: Any,
    terms: Any,
    how: Any,
    seen: Any,
    counts: Any,
    narrow: Any,
    wide: Any,
    signed: Any,
    strength: Any,
    out: Any,
) -> None:
    """base + strength * `join`: float32 [n, …], bfloat16 bits [m] -> bits [m]; `tile` entries are cut into parts."""
    n = deltas.shape[0]
    part = narrow[1 : n + 1]
    for begin in range(0, out.size, tile):
        end = min(begin + tile, out.size)
        for start in range(begin, end, PART):
            stop = min(start + PART, end)
            merged = wide[n + 2, : stop - start]
            trimmed(deltas, start, stop - start, terms, seen, counts, part)
            joined(part, terms, how, seen, counts, narrow[0], wide, signed, merged)
            add_bf16(base[start:stop], merged, strength, out[start:stop])


@compiled(
    *("f4[:,:]", "f4[:,:]", "i8[:]", "f4[:]", "f4[:,:]", "f4[:,:]", "u2[:]", "f8[:,:]", "i8", "i8", "f8[:,:]"),
    *("f4[:,:]", "f8[:,:]", "i2[:,:]", "f8", "u2[:]"),
)
def join_products_bf16(
    left: Any,
    right: Any,
    ends: Any,
    scales: Any,
    rows: Any,
    flat: Any,
    base: Any,
    terms: Any,
    how: Any,
    seen: Any,
    counts: Any,
    narrow: Any,
    wide: Any,
    signed: Any,
    strength: Any,
    out: Any,
) -> None:
    """`join_onto_bf16` of n products, a tile at a time: bfloat16 bits [m] -> bits [m].

    left float32 [m / columns, ranks], right [ranks, columns]: the factors side by side, the i-th up to ends[i], times
    scales[i]. For the tile: rows float32 [n * rows of a tile, columns], and flat [n, entries of a tile], the same.
    """
    n, columns = ends.size, right.shape[1]
    step = rows.shape[0] // n
    for row in range(0, left.shape[0], step):
        last = min(row + step, left.shape[0])
        rank = 0
        for i in range(n):
            product(left[row:last, rank : ends[i]], right[rank : ends[i]], scales[i], rows[i * step :][: last - row])
            rank = ends[i]
        start, stop = row * columns, last * columns
        join_onto_bf16(
            flat,
            stop - start,
            base[start:stop],
            terms,
            how,
            seen,
            counts,
            narrow,
            wide,
            signed,
            strength,
            out[start:stop],
        )


@compiled(
    *("u2[:]", "u2[:]", "u2[:]", "u2[:]", "u2[:]", "i8"),
    *("f8[:,:]", "i8", "i8", "f8[:,:]", "f4[:,:]", "f8[:,:]", "i2[:,:]", "f8", "u2[:]"),
)
def join_bf16(
    one: Any,
    two: Any,
    three: Any,
    four: Any,
    base: Any,
    n: Any,
    terms: Any,
    how: Any,
    seen: Any,
    counts: Any,
    narrow: Any,
    wide: Any,
    signed: Any,
    strength: Any,
    out: Any,
) -> None:
    """base + strength * the join of up to four fine-tunes, the first n counting: bfloat16 bits [m] -> bits [m]."""
    every, part = narrow[1:5], narrow[1 : n + 1]
    lows, highs = (terms[5], terms[6]) if seen & RAW else (terms[3], terms[4])
    for start in range(0, base.size, PART):
        stop = min(start + PART, base.size)
        from_base = base[start:stop]
        every[:, stop - start :] = np.float32(0)
        four_trimmed(
            one[start:stop], two[start:stop], three[start:stop], four[start:stop], from_base, lows, highs, every
        )
        if seen & RAW:
            products(part, counts[:n], counts[3 * n])
            trim(part, terms[3], terms[4])
        merged = wide[n + 2, : stop - start]
        joined(part, terms, how, seen, counts, narrow[0], wide, signed, merged)
        add_bf16(from_base, merged, strength, out[start:stop])


@compiled("u2[:]", "u2[:]", "f4", "f4", "i8[:]", "f4[:]")
def count_bf16(tuned: Any, base: Any, low: Any, high: Any, found: Any, values: Any) -> None:
    """`count` of tuned - base, bfloat16 bits [m]; values: float32 [PART], for this pass's own use."""
    for start in range(0, tuned.size, PART):
        stop = min(start + PART, tuned.size)
        part = values[: stop - start]
        subtract_bf16(tuned[start:stop], base[start:stop], part)
        count(part, low, high, found)
