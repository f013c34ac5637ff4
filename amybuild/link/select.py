"""Exact selection: the k-th largest magnitude of a tensor, found from a sampled bracket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SMALL = 1 << 15
_SAMPLE = 1 << 13


def kept_count(density: float, size: int) -> int:
    """How many of `size` entries a density in (0, 1] keeps: ceil(density * size), so never none (0 for size 0).

    The product is rounded at its ninth decimal first: 0.07 * 100 is 7, not 7.000000000000001.
    """
    return min(size, math.ceil(round(density * size, 9)))


def kth_largest(magnitudes: NDArray[np.float32], k: int) -> float:
    """The k-th largest entry (k >= 1) of a flat array, exactly; the array may be reordered.

    A strided sample brackets the answer, one pass counts what lies above and collects what lies within, and the count
    proves the bracket right; a wrong bracket costs a full partition, never a wrong answer. Entries must not be NaN.
    """
    size = magnitudes.size
    if size > _SMALL:
        inside = _bracketed(magnitudes, k)
        if inside is not None:
            magnitudes, k = inside
            size = magnitudes.size
    magnitudes.partition(size - k)
    return float(magnitudes[size - k])


def _bracketed(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], int] | None:
    import numpy as np

    # an odd stride: row lengths are even, so that the sample does not stay in a few columns
    sample: NDArray[Any] = np.sort(values[:: (values.size // _SAMPLE) | 1])
    share = k / values.size
    slack = 4.0 * math.sqrt(max(share * (1 - share), 1 / sample.size) * sample.size) + 2
    middle = (1 - share) * sample.size
    low = sample[max(0, int(middle - slack))]
    high = sample[min(sample.size - 1, int(middle + slack))]
    above = int(np.count_nonzero(values > high))
    inside = values[(values >= low) & (values <= high)]
    if above < k <= above + inside.size:
        return inside, k - above
    return None
