"""Exact selection: the k-th largest magnitude of a difference, guessed from a sample and proved by counting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from amybuild.link.counting import collect, count, high_bits, low_bits
from amybuild.link.delta import F32, Delta, blocks, sample

_SMALL = 1 << 15
_SAMPLE = 1 << 12
_BLOCK = 1 << 17
_GUESSES = 2


def kept_count(density: float, size: int) -> int:
    """How many of `size` entries a density in (0, 1] keeps: int(density * size), and never none."""
    return min(size, max(1, int(density * size)))


def kth_largest(deltas: Sequence[Delta], k: int) -> float:
    """The k-th largest |entry| (1 <= k <= size) of the differences taken together, exactly, as float32.

    Values that repeat (differences of 16-bit weights: a few per cent of all entries are equal to the answer) are guessed
    and verified by one counting pass. Else a bracket from the sample is collected and searched, and the counts prove
    that the answer lies in it. When neither holds, two histogram passes over the bits find it. Entries must not be NaN.
    """
    size = sum(math.prod(delta.shape) for delta in deltas)
    if size <= _SMALL:
        every = np.concatenate([np.abs(block) for delta in deltas for block in blocks(delta, _BLOCK)])
        return float(np.partition(every, size - k)[size - k])
    stride = max(1, size // _SAMPLE) | 1  # odd: row lengths are even, so that the sample does not stay in a few columns
    seen = np.sort(np.abs(np.concatenate([sample(delta, stride) for delta in deltas])))
    found = _guess(deltas, k, size, seen)
    if found is None:
        found = _bracket(deltas, k, size, seen)
    return _by_bits(deltas, k) if found is None else found


def _guess(deltas: Sequence[Delta], k: int, size: int, seen: F32) -> float | None:
    place = seen.size - 1 - min(seen.size - 1, int(k / size * seen.size))
    for _ in range(_GUESSES):
        cut = seen[place]
        first, last = int(np.searchsorted(seen, cut, "left")), int(np.searchsorted(seen, cut, "right"))
        if last - first < 4:
            return None  # values hardly repeat: no single one is likely to be the answer
        above = reach = 0
        for delta in deltas:
            for block in blocks(delta, _BLOCK):
                more, same = count(block, cut)
                above, reach = above + more, reach + same
        if above < k <= reach:
            return float(cut)
        place = last if k <= above else first - 1
        if not 0 <= place < seen.size:
            return None
    return None


def _bracket(deltas: Sequence[Delta], k: int, size: int, seen: F32) -> float | None:
    share = k / size
    slack = 4.0 * math.sqrt(max(share * (1 - share), 1 / seen.size) * seen.size) + 2
    middle = (1 - share) * seen.size
    low, high = seen[max(0, int(middle - slack))], seen[min(seen.size - 1, int(middle + slack))]
    inside = np.empty(size // 4 + _SAMPLE, np.float32)  # what is not written to costs nothing
    above = at = 0
    for delta in deltas:
        for block in blocks(delta, _BLOCK):
            more, at = collect(block, low, high, inside, at)
            above += more
            if at < 0:
                return None
    if above < k <= above + at:
        return float(np.partition(inside[:at], at - (k - above))[at - (k - above)])
    return None


def _by_bits(deltas: Sequence[Delta], k: int) -> float:
    upper = np.zeros(1 << 15, np.int64)
    for delta in deltas:
        for block in blocks(delta, _BLOCK):
            high_bits(block, upper)
    bin, k = _bin_of(upper, k)
    lower = np.zeros(1 << 16, np.int64)
    for delta in deltas:
        for block in blocks(delta, _BLOCK):
            low_bits(block, np.uint32(bin), lower)
    word = bin << 16 | _bin_of(lower, k)[0]
    return float(np.array([word], np.uint32).view(np.float32)[0])


def _bin_of(bins: np.ndarray[tuple[int], np.dtype[np.int64]], k: int) -> tuple[int, int]:
    # the bin that holds the k-th largest, and which largest of that bin it is
    from_top = np.cumsum(bins[::-1])
    place = int(np.searchsorted(from_top, k))
    bin = len(bins) - 1 - place
    return bin, k - int(from_top[place] - bins[bin])


