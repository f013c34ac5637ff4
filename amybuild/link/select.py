"""Exact selection: the k-th largest magnitude of a difference, guessed from a sample and proved by counting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from amybuild.link.counting import collect, count, high_bits, low_bits
from amybuild.link.delta import F32, Delta, blocks, of_bits, sample, stretches
from amybuild.link.fused import count_bf16
from amybuild.link.kernels import PART

_SMALL = 1 << 15
_SAMPLE = 1 << 13
_BLOCK = 1 << 17
_GUESSES = 2
_OFTEN = 8
_SIGMAS = 3.0
_FEW = 1 << 10


def kept_count(density: float, size: int) -> int:
    """How many of `size` entries a density in (0, 1] keeps: int(density * size), and never none."""
    return min(size, max(1, int(density * size)))


def kth_largest(deltas: Sequence[Delta], k: int) -> float:
    """The k-th largest |entry| (1 <= k <= size) of the differences taken together, exactly, as float32.

    Values that repeat (in differences of 16-bit weights a few per cent of all entries equal the answer) are guessed
    and verified by one counting pass. Else a bracket from the sample is narrowed by counting and collected, and the
    counts prove that the answer lies in it. When neither holds, two histogram passes over the bits find it. Entries
    must not be NaN.
    """
    size = sum(math.prod(delta.shape) for delta in deltas)
    if size <= _SMALL:
        every = np.concatenate([np.abs(block) for delta in deltas for block in blocks(delta, _BLOCK)])
        return float(np.partition(every, size - k)[size - k])
    stride = max(1, size // _SAMPLE) | 1  # odd: row lengths are even, so that the sample does not stay in a few columns
    seen = np.abs(np.concatenate([sample(delta, stride) for delta in deltas]))
    share = k / size
    slack = _SIGMAS * math.sqrt(max(share * (1 - share), 1 / seen.size) / seen.size) + 2 / seen.size
    places = [_place(at, seen) for at in (share + slack, share, share - slack)]
    low, cut, high = np.partition(seen, places)[places]
    found = _guess(deltas, k, seen, cut)
    if found is None:
        found = _bracket(deltas, k, low, high)
    return _by_bits(deltas, k) if found is None else found


def _count(deltas: Sequence[Delta], low: np.float32, high: np.float32) -> tuple[int, int]:
    """How many magnitudes are above `high`, and how many at or above `low`."""
    found = np.zeros(2, np.int64)
    values = np.empty(PART, np.float32)
    for delta in deltas:
        if of_bits(delta):
            for start, stop in stretches(delta):
                count_bf16(*delta.bits(start, stop), low, high, found, values)
        else:
            for block in blocks(delta, _BLOCK):
                count(block, low, high, found)
    return int(found[0]), int(found[1])


def _guess(deltas: Sequence[Delta], k: int, seen: F32, cut: np.float32) -> float | None:
    for _ in range(_GUESSES):
        if np.count_nonzero(seen == cut) < _OFTEN:
            return None  # values hardly repeat: no single one is likely to be the answer
        above, reach = _count(deltas, cut, cut)
        if above < k <= reach:
            return float(cut)
        beside = seen[seen > cut] if k <= above else seen[seen < cut]
        if not beside.size:
            return None
        cut = beside.min() if k <= above else beside.max()
    return None


def _place(share: float, seen: F32) -> int:
    # where the share-th largest would be, were the sample sorted
    return min(seen.size - 1, max(0, int((1 - share) * seen.size)))


def _bracket(deltas: Sequence[Delta], k: int, low: np.float32, high: np.float32) -> float | None:
    above, reach = _count(deltas, low, high)
    if not above < k <= reach:
        return None
    if reach - above > _FEW:  # between two known ranks the magnitudes are nearly evenly spread: look near the k-th
        inside = reach - above
        at, off = (reach - k) / inside, 4 / math.sqrt(inside)
        near = [np.float32(low + (high - low) * min(1.0, max(0.0, at + side * off))) for side in (-1, 1)]
        higher, wider = _count(deltas, near[0], near[1])
        if higher < k <= wider:
            low, high, above, reach = near[0], near[1], higher, wider
    found = np.empty(reach - above + 2 * _FEW, np.float32)
    end = np.zeros(1, np.int64)
    for delta in deltas:
        for block in blocks(delta, _BLOCK):
            collect(block, low, high, found, end)
    place = reach - k
    return float(np.partition(found[: end[0]], place)[place])


def _by_bits(deltas: Sequence[Delta], k: int) -> float:
    upper = np.zeros(1 << 15, np.int64)
    for delta in deltas:
        for block in blocks(delta, _BLOCK):
            high_bits(block, upper)
    bin, k = _bin_of(upper, k)
    lower = np.zeros(1 << 16, np.int64)
    for delta in deltas:
        for block in blocks(delta, _BLOCK):
            low_bits(block, bin, lower)
    word = bin << 16 | _bin_of(lower, k)[0]
    return float(np.array([word], np.uint32).view(np.float32)[0])


def _bin_of(bins: np.ndarray[tuple[int], np.dtype[np.int64]], k: int) -> tuple[int, int]:
    # the bin that holds the k-th largest, and which largest of that bin it is
    from_top = np.cumsum(bins[::-1])
    place = int(np.searchsorted(from_top, k))
    bin = len(bins) - 1 - place
    return bin, k - int(from_top[place] - bins[bin])
