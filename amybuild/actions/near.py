"""Near-duplicates: which of some texts share most of their word pairs with one of some others, exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re

NEAR = 0.8  # Jaccard index of two texts' shingles: one other word in ten, or another punctuation and case


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    import re

    unspaced = "\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff"  # scripts without spaces between words: each sign counts
    return re.compile(rf"[{unspaced}]|[^\W{unspaced}]+")


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    found: list[str] = _word().findall(text.casefold())
    return found


def shingles(text: str) -> frozenset[str]:
    """The pairs of neighbouring words of a text (a lone word stands for itself)."""
    found = words(text)
    return frozenset(map(" ".join, pairwise(found))) or frozenset(found)


def near(some: Sequence[str], others: Iterable[str], least: float = NEAR) -> list[bool]:
    """For each of `some` texts whether one of `others` is near it: Jaccard index of their `shingles` at least `least`.

    Exact, by prefix filtering (Bayardo et al., WWW 2007): with the shingles in one order, the rarest first, two sets of
    at least that likeness share one within the first ``n - ceil(least * n) + 1`` of each. So only texts that share
    a rare pair of words are compared, and nothing depends on a seed.
    """
    left, right = [shingles(text) for text in some], [shingles(text) for text in others]
    count = Counter(one for group in (left, right) for found in group for one in found)
    index: dict[str, list[int]] = {}
    for place, found in enumerate(right):
        for one in _prefix(found, count, least):
            index.setdefault(one, []).append(place)
    return [any(_alike(found, right[place], least) for place in _met(found, index, count, least)) for found in left]


def _prefix(found: frozenset[str], count: Counter[str], least: float) -> list[str]:
    ordered = sorted(found, key=lambda one: (count[one], one))
    return ordered[: len(found) - math.ceil(least * len(found)) + 1] if found else []


def _met(found: frozenset[str], index: dict[str, list[int]], count: Counter[str], least: float) -> Iterator[int]:
    seen: set[int] = set()
    for one in _prefix(found, count, least):
        for place in index.get(one, ()):
            if place not in seen:
                seen.add(place)
                yield place


def _alike(a: frozenset[str], b: frozenset[str], least: float) -> bool:
    if min(len(a), len(b)) < least * max(len(a), len(b)):
        return False
    shared = len(a & b)
    return shared >= least * (len(a) + len(b) - shared)
