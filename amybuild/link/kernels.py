"""The loops over entries, run as machine code: differences, the trim, the election and merge, the one rounding.

Every loop is a function of its entries alone, in a fixed order over the vectors, so that neither threads nor the way a
tensor is cut into blocks can change a bit. Differences are float32; sums over vectors are float64, rounded once to the
weight's dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from amybuild.link.machine import compiled

PART = 1024  # entries at a time: what is found of them for four vectors stays in the first-level cache


@compiled()
def widened(bits: Any) -> Any:
    """The float32 of a bfloat16's bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@compiled()
def bits_of(value: Any) -> Any:
    """The bits of a float32, uint32."""
    return np.float32(value).view(np.uint32)


@compiled("u2[:]", "u2[:]", "f4[:]")
def subtract_bf16(tuned: Any, base: Any, out: Any) -> None:
    """tuned - base: uint16 bits of bfloat16 [n] -> float32 [n]."""
    for j in range(out.size):
        out[j] = widened(tuned[j]) - widened(base[j])


@compiled()
def four_trimmed(one: Any, two: Any, three: Any, four: Any, base: Any, lows: Any, highs: Any, out: Any) -> None:
    """`subtract_bf16` and `trim` of four fine-tunes at once: bits [m] each, float64 [4], [4] -> float32 [4, PART].

    A NaN stays, to be counted.
    """
    low0, low1, low2, low3 = np.float32(lows[0]), np.float32(lows[1]), np.float32(lows[2]), np.float32(lows[3])
    top0, top1, top2, top3 = np.float32(highs[0]), np.float32(highs[1]), np.float32(highs[2]), np.float32(highs[3])
    r0, r1, r2, r3 = out[0], out[1], out[2], out[3]
    for j in range(base.size):
        from_base = widened(base[j])
        x0, x1 = widened(one[j]) - from_base, widened(two[j]) - from_base
        x2, x3 = widened(three[j]) - from_base, widened(four[j]) - from_base
        r0[j] = np.float32(0) if (abs(x0) < low0) | (abs(x0) > top0) else x0
        r1[j] = np.float32(0) if (abs(x1) < low1) | (abs(x1) > top1) else x1
        r2[j] = np.float32(0) if (abs(x2) < low2) | (abs(x2) > top2) else x2
        r3[j] = np.float32(0) if (abs(x3) < low3) | (abs(x3) > top3) else x3


@compiled("f4[:,:]", "f4[:,:]", "f4", "f4[:,:]", fastmath={"contract"})
def product(left: Any, right: Any, scale: Any, out: Any) -> None:
    """(left @ right) * scale: float32 [m, r], [r, n] -> [m, n]; fused multiply-adds, the rank ascending."""
    m, rank = left.shape
    columns = right.shape[1]
    deep = rank // 4 * 4
    for i in range(0, m, 4):  # four rows at a time, from zero to the scaled product, stay in the first-level cache
        tile = out[i : i + 4]
        tile[:] = np.float32(0)
        whole = tile.shape[0] == 4
        last = min(3, tile.shape[0] - 1)
        o0, o1, o2, o3 = tile[0], tile[min(1, last)], tile[min(2, last)], tile[last]
        for k in range(0, deep if whole else 0, 4):  # and four ranks: a loaded row of `right` is used four times
            r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            a0, a1, a2, a3 = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
            b0, b1, b2, b3 = left[i + 1, k], left[i + 1, k + 1], left[i + 1, k + 2], left[i + 1, k + 3]
            c0, c1, c2, c3 = left[i + 2, k], left[i + 2, k + 1], left[i + 2, k + 2], left[i + 2, k + 3]
            d0, d1, d2, d3 = left[i + 3, k], left[i + 3, k + 1], left[i + 3, k + 2], left[i + 3, k + 3]
            for j in range(columns):
                x0, x1, x2, x3 = r0[j], r1[j], r2[j], r3[j]
                o0[j] = a3 * x3 + (a2 * x2 + (a1 * x1 + (a0 * x0 + o0[j])))
                o1[j] = b3 * x3 + (b2 * x2 + (b1 * x1 + (b0 * x0 + o1[j])))
                o2[j] = c3 * x3 + (c2 * x2 + (c1 * x1 + (c0 * x0 + o2[j])))
                o3[j] = d3 * x3 + (d2 * x2 + (d1 * x1 + (d0 * x0 + o3[j])))
        for n in range(tile.shape[0]):
            row = tile[n]
            for k in range(deep if whole else 0, rank):
                a, b = left[i + n, k], right[k]
                for j in range(columns):
                    row[j] = a * b[j] + row[j]
            for j in range(columns):
                row[j] *= scale


@compiled("f4[:,:]", "f4[:,:]", "f4", "i8", "f4[:]", fastmath={"contract"})
def product_at(left: Any, right: Any, scale: Any, stride: Any, out: Any) -> None:
    """The entries 0, stride, 2 * stride … of `product`, read row by row: float32 -> [n]."""
    rank, columns = right.shape
    for place in range(out.size):
        i, j = place * stride // columns, place * stride % columns
        value = np.float32(0)
        for k in range(rank):
            value = left[i, k] * right[k, j] + value
        out[place] = value * scale


@compiled()
def trim(deltas: Any, lows: Any, highs: Any) -> None:
    """Zero, in place, what does not satisfy low_i <= |delta_i| <= high_i: float32 [n, m], float64 [n], [n]."""
    for i in range(deltas.shape[0]):
        row, low, high = deltas[i], np.float32(lows[i]), np.float32(highs[i])
        for j in range(row.size):
            size = abs(row[j])
            row[j] = row[j] if (size >= low) & (size <= high) else np.float32(0)


@compiled()
def total(deltas: Any, alphas: Any, out: Any) -> None:
    """sum of alpha_i * delta_i: float32 [n, PART], float64 [n] -> float64 [m <= PART]."""
    out[:] = 0.0
    for i in range(deltas.shape[0]):
        row, alpha = deltas[i], alphas[i]
        for j in range(out.size):
            out[j] += alpha * np.float64(row[j])


@compiled()
def disjoint(deltas: Any, alphas: Any, shares: Any, divisors: Any, by_count: Any, work: Any, out: Any) -> None:
    """The agreeing entries joined: sum(share_i * alpha_i * delta_i) / sum(divisor_i) over those with the elected sign.

    deltas float32 [n, PART]; alphas, shares, divisors float64 [n]; work [n + 2, PART], out [m <= PART] float64. Elected
    is the sign of the sum of the weighted entries, or of the sum of their signs (`by_count`); an exact zero elects
    nobody and gives 0. Divisors that are all 0 leave the sum undivided.
    """
    n, size = deltas.shape[0], out.size
    vote, over = work[n], work[n + 1]
    vote[:] = 0.0
    over[:] = 0.0
    out[:] = 0.0
    for i in range(n):
        row, alpha, mine = deltas[i], alphas[i], work[i]
        if by_count:
            for j in range(size):
                z = alpha * np.float64(row[j])
                mine[j] = z
                vote[j] += (1.0 if z > 0 else 0.0) - (1.0 if z < 0 else 0.0)
        else:
            for j in range(size):
                z = alpha * np.float64(row[j])
                mine[j] = z
                vote[j] += z
    for i in range(n):
        mine, share, divisor = work[i], shares[i], divisors[i]
        for j in range(size):
            agrees = mine[j] * vote[j] > 0
            out[j] += share * mine[j] if agrees else 0.0
            over[j] += divisor if agrees else 0.0
    for j in range(size):
        out[j] /= over[j] if over[j] > 0 else 1.0


@compiled()
def disjoint_of_four(deltas: Any, alphas: Any, shares: Any, divisors: Any, out: Any) -> None:
    """`disjoint` by mass, for up to four vectors: the same numbers in half the time, as nothing leaves the registers.

    deltas float32 [n, PART], 1 <= n <= 4; alphas, shares, divisors float64 [4], zero from the n-th on.
    """
    last = deltas.shape[0] - 1
    r0, r1, r2, r3 = deltas[0], deltas[min(1, last)], deltas[min(2, last)], deltas[min(3, last)]
    a0, a1, a2, a3 = alphas[0], alphas[1], alphas[2], alphas[3]
    s0, s1, s2, s3 = shares[0], shares[1], shares[2], shares[3]
    d0, d1, d2, d3 = divisors[0], divisors[1], divisors[2], divisors[3]
    for j in range(out.size):
        z0, z1 = a0 * np.float64(r0[j]), a1 * np.float64(r1[j])
        z2, z3 = a2 * np.float64(r2[j]), a3 * np.float64(r3[j])
        vote = z0 + z1 + z2 + z3
        k0, k1, k2, k3 = z0 * vote > 0, z1 * vote > 0, z2 * vote > 0, z3 * vote > 0
        joined = (s0 * z0 if k0 else 0.0) + (s1 * z1 if k1 else 0.0)
        joined = joined + (s2 * z2 if k2 else 0.0) + (s3 * z3 if k3 else 0.0)
        over = (d0 if k0 else 0.0) + (d1 if k1 else 0.0) + (d2 if k2 else 0.0) + (d3 if k3 else 0.0)
        out[j] = joined / (over if over > 0 else 1.0)


@compiled("u2[:]", "f8[:]", "f8", "u2[:]")
def add_bf16(base: Any, merged: Any, strength: Any, out: Any) -> None:
    """base + strength * merged, rounded once (nearest, ties to even): bfloat16 bits [n], float64 [n] -> bits [n].

    A float64 is rounded to eight binary digits by adding and subtracting 2^45 times its power of two (within those of
    bfloat16's normal numbers): the sum has no digits below. Where there is nothing to add the base's bits stay.
    """
    power, up = np.int64(0x7FF << 52), np.int64(45 << 52)
    least, most = np.int64(1023 - 126 << 52), np.int64(1023 + 128 << 52)
    for j in range(out.size):
        bits = base[j]
        extra = strength * merged[j]
        exact = np.float64(widened(bits)) + extra
        word = np.float64(exact).view(np.int64)
        sign = word & ~np.int64(0x7FFFFFFFFFFFFFFF)
        large = np.int64((min(max(word & power, least), most) + up) | sign).view(np.float64)
        near = np.float64((exact + large) - large).view(np.int64) | sign  # a zero has lost it
        rounded = np.uint16(bits_of(np.float32(np.int64(near).view(np.float64))) >> np.uint32(16))
        out[j] = bits if extra == 0.0 else rounded


@compiled("f4[:,:]", "f8[:]", "f8", "i8", "f8[:,:]")
def consensus(deltas: Any, alphas: Any, scale: Any, agree: Any, work: Any) -> None:
    """Zero, in place, the entries that fewer than `agree` vectors need (TALL masks): float32 [n, m].

    Vector i needs an entry when |x_i| >= scale * |sum_k x_k - x_i|, x_i = alpha_i * delta_i in float64. `work`: float64
    [2, PART].
    """
    n, m = deltas.shape
    whole, votes = work[0], work[1]
    for start in range(0, m, PART):
        size = min(PART, m - start)
        whole[:] = 0.0
        votes[:] = 0.0
        for i in range(n):
            row, alpha = deltas[i, start : start + size], alphas[i]
            for j in range(size):
                whole[j] += alpha * np.float64(row[j])
        for i in range(n):
            row, alpha = deltas[i, start : start + size], alphas[i]
            for j in range(size):
                x = alpha * np.float64(row[j])
                votes[j] += 1.0 if abs(x) >= scale * abs(whole[j] - x) else 0.0
        for i in range(n):
            row = deltas[i, start : start + size]
            for j in range(size):
                row[j] = row[j] if votes[j] >= agree else np.float32(0)


@compiled("f4[:,:]", "f8[:]", "f8[:,:]", "f4[:]")
def spread(deltas: Any, alphas: Any, work: Any, out: Any) -> None:
    """The variance over the vectors of alpha_i * delta_i, of each entry: float32 [n, m] -> float32 [m].

    work: float64 [2, PART].
    """
    n, m = deltas.shape
    mean, square = work[0], work[1]
    for start in range(0, m, PART):
        size = min(PART, m - start)
        mean[:] = 0.0
        square[:] = 0.0
        for i in range(n):
            row, alpha = deltas[i, start : start + size], alphas[i]
            for j in range(size):
                mean[j] += alpha * np.float64(row[j])
        for j in range(size):
            mean[j] /= n
        for i in range(n):
            row, alpha = deltas[i, start : start + size], alphas[i]
            for j in range(size):
                off = alpha * np.float64(row[j]) - mean[j]
                square[j] += off * off
        for j in range(size):
            out[start + j] = np.float32(square[j] / n)


@compiled("f4[:,:]", "f8[:]", "f8[:]", fastmath={"reassoc", "contract", "nsz"})
def add_energies(deltas: Any, alphas: Any, out: Any) -> None:
    """Add to out [n] the sums of (alpha_i * delta_i)^2: float32 [n, m], float64 [n]."""
    for i in range(deltas.shape[0]):
        row, alpha, square = deltas[i], alphas[i], 0.0
        for j in range(row.size):
            value = alpha * np.float64(row[j])
            square += value * value
        out[i] += square


@compiled("f4[:,:]", "f4[:]", "f4")
def keep_where(deltas: Any, values: Any, low: Any) -> None:
    """Zero, in place, the entries of every vector where value < low: float32 [n, m], [m]."""
    for i in range(deltas.shape[0]):
        row = deltas[i]
        for j in range(row.size):
            row[j] = row[j] if values[j] >= low else np.float32(0)


@compiled("u8", "u8", "u8", "u8", "u8", "u4[:]")
def philox(key0: Any, key1: Any, high0: Any, high1: Any, first: Any, out: Any) -> None:
    """Random words by Philox4x32-10 (Salmon et al., SC 2011), whole blocks of four from `first` on: uint32 [4 n].

    A block's counter is (lower, upper word of its number, high0, high1), its key (key0, key1); all are uint64.
    """
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(out.size // 4):
        block = first + np.uint64(i)
        a, b, c, d = block & mask, block >> shift, high0 & mask, high1 & mask
        k, m = key0 & mask, key1 & mask
        for _ in range(10):
            left, right = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
            a = (right >> shift) ^ b ^ k
            b = right & mask
            c = (left >> shift) ^ d ^ m
            d = left & mask
            k = (k + np.uint64(0x9E3779B9)) & mask
            m = (m + np.uint64(0xBB67AE85)) & mask
        out[4 * i] = a
        out[4 * i + 1] = b
        out[4 * i + 2] = c
        out[4 * i + 3] = d


@compiled("f4[:,:]", "u8[:,:]")
def magnitude_keys(values: Any, out: Any) -> None:
    """Per entry its magnitude's bits above its column: sorted, they are the row's order: float32 [m, n] -> uint64."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = np.uint64(bits_of(values[i, j]) & np.uint32(0x7FFFFFFF)) << np.uint64(32) | np.uint64(j)


@compiled("u8[:,:]", "f8", "f8", "f8[:,:]")
def chances(keys: Any, least: Any, span: Any, out: Any) -> None:
    """least + span * rank, ranks from 0 (smallest) to 1 within the row, equal magnitudes sharing their mean.

    keys: `magnitude_keys`, each row sorted -> float64 [m, n]; a row of one entry has rank 1/2.
    """
    rows, n = keys.shape
    shift, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    for i in range(rows):
        start = 0
        while start < n:
            value = keys[i, start] >> shift
            stop = start + 1
            while stop < n and keys[i, stop] >> shift == value:
                stop += 1
            rank = (start + stop - 1) / 2 / (n - 1) if n > 1 else 0.5
            for j in range(start, stop):
                out[i, keys[i, j] & low] = rank * span + least
            start = stop


@compiled("f4[:]", "u4[:]", "u8")
def drop(values: Any, words: Any, limit: Any) -> None:
    """Zero, in place, the entries whose word is not below the limit: float32 [n], uint32 [n], uint64."""
    for j in range(values.size):
        values[j] = values[j] if np.uint64(words[j]) < limit else np.float32(0)


@compiled("f4[:]", "u4[:]", "f8[:]")
def thin(values: Any, words: Any, chances: Any) -> None:
    """Keep an entry where word < chance * 2^32 and divide it by its chance, in place: float32, uint32, float64 [n]."""
    for j in range(values.size):
        chance = chances[j]
        kept = np.float64(words[j]) < chance * 4294967296.0
        values[j] = np.float32(np.float64(values[j]) / chance) if kept else np.float32(0)
