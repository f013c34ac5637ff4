"""The passes of a link over many entries: a thousand at a time they are differenced, counted, trimmed and joined.

What is found of a thousand entries stays in the first-level cache, and the interpreter is asked once per block.

Shapes: n vectors, m entries. `terms` float64 [5, max(n, 4)]: per vector alpha, share, divisor, least and largest
magnitude that stays, zero from the n-th on. `counts` float64 [3 n + 3, n]: the rows of `Counts`. `seen`: which counts
are to be taken (`RAW` before the trim, `KEPT` after it). `how`: what is made of the entries that stay (`TOTAL` …).
`room`: float32 [n + 1, PART], float64 [n + 3, PART] and int16 [2 n, PART] for the passes' own use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from amybuild.link.counting import agreeing, count, products, signs
from amybuild.link.kernels import PART, add_bf16, disjoint, disjoint_of_four, subtract_bf16, total, trim
from amybuild.link.machine import compiled

TOTAL, MASS, COUNT, GIVEN = 0, 1, 2, 3  # the sum; of those with the sign elected by mass, by count; it is there already
RAW, KEPT = 1, 2


@compiled()
def join_part(
    deltas: Any, terms: Any, how: Any, seen: Any, counts: Any, way: Any, wide: Any, signed: Any, merged: Any
) -> None:
    """One part: float32 [n, PART], zero from the m-th on -> float64 [m]."""
    n = deltas.shape[0]
    gram, both, same = counts[:n], counts[n : 2 * n], counts[2 * n : 3 * n]
    if seen & RAW:
        products(deltas, gram, counts[3 * n])
    trim(deltas, terms[3], terms[4])
    if seen & KEPT:
        signs(deltas, both, same, counts[3 * n + 1], signed)
    if how == TOTAL:
        total(deltas, terms[0], merged)
    elif how == MASS and n <= 4:
        disjoint_of_four(deltas, terms[0], terms[1], terms[2], merged)
    elif how != GIVEN:
        disjoint(deltas, terms[0], terms[1], terms[2], how == COUNT, wide, merged)
    agreeing(deltas, terms[0], merged, counts[3 * n + 2], way)


@compiled("f4[:,:]", "f8[:,:]", "i8", "i8", "f8[:,:]", "f4[:,:]", "f8[:,:]", "i2[:,:]", "f8[:]")
def join(
    deltas: Any, terms: Any, how: Any, seen: Any, counts: Any, narrow: Any, wide: Any, signed: Any, merged: Any
) -> None:
    """Differences that are there: float32 [n, m] -> float64 [m]."""
    n, m = deltas.shape
    part = narrow[1:]
    for start in range(0, m, PART):
        size = min(PART, m - start)
        for i in range(n):
            row = deltas[i, start : start + size]
            for j in range(PART):
                part[i, j] = row[j] if j < size else np.float32(0)
        join_part(part, terms, how, seen, counts, narrow[0], wide, signed, merged[start : start + size])


@compiled(
    *("u2[:]", "u2[:]", "u2[:]", "u2[:]", "u2[:]", "i8"),
    *("f8[:,:]", "i8", "i8", "f8[:,:]", "f4[:,:]", "f8[:,:]", "i2[:,:]", "f8", "u2[:]"),
)
def join_bf16(
    first: Any,
    second: Any,
    third: Any,
    fourth: Any,
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
    part = narrow[1 : n + 1]
    for start in range(0, base.size, PART):
        stop = min(start + PART, base.size)
        part[:, stop - start :] = np.float32(0)
        from_base = base[start:stop]
        subtract_bf16(first[start:stop], from_base, part[0, : stop - start])
        if n > 1:
            subtract_bf16(second[start:stop], from_base, part[1, : stop - start])
        if n > 2:
            subtract_bf16(third[start:stop], from_base, part[2, : stop - start])
        if n > 3:
            subtract_bf16(fourth[start:stop], from_base, part[3, : stop - start])
        merged = wide[n + 2, : stop - start]
        join_part(part, terms, how, seen, counts, narrow[0], wide, signed, merged)
        add_bf16(from_base, merged, strength, out[start:stop])


@compiled("u2[:]", "u2[:]", "f4", "f4", "i8[:]", "f4[:]")
def count_bf16(tuned: Any, base: Any, low: Any, high: Any, found: Any, values: Any) -> None:
    """`count` of tuned - base, bfloat16 bits [m]; values: float32 [PART], for this pass's own use."""
    for start in range(0, tuned.size, PART):
        stop = min(start + PART, tuned.size)
        part = values[: stop - start]
        subtract_bf16(tuned[start:stop], base[start:stop], part)
        count(part, low, high, found)
