"""Near-duplicates: which of some texts share most of their word pairs with one of some others, exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re

_Index = dict[str, list[tuple[int, frozenset[str], int]]]  # shingle -> number, shingles, how many from this one on
NEAR = 0.8  # Jaccard index of two texts' shingles: one other word in ten, or another punctuation and case


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    import re

    unspaced = "\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff"  # scripts without spaces between words: each sign counts
    return re.compile(rf"[{unspaced}]|[^\W{unspaced}]+")


@lru_cache(maxsize=1)
def _plain() -> re.Pattern[str]:
    """`_word`, of ASCII: to compile the other one takes longer than a small corpus does."""
    import re

    return re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    found: list[str] = (_plain() if text.isascii() else _word()).findall(text.casefold())
    return found


def shingles(text: str) -> frozenset[str]:
    """The pairs of neighbouring words of a text (a lone word stands for itself)."""
    found = words(text)
    return frozenset(map(" ".join, pairwise(found))) or frozenset(found)


def near(some: Sequence[str], others: Iterable[str], least: float = NEAR) -> list[bool]:
    """For each of `some` texts whether one of `others` is near it: Jaccard index of their `shingles` at least `least`.

    Exact, by prefix filtering (Bayardo et al., WWW 2007): with the shingles in one order, the rarest first, two sets of
    at least that likeness share one within the first ``n - ceil(least * n) + 1`` of each. So only texts that share
    a rare pair of words are compared, and of those only where what follows that pair is long enough (Xiao et al., WWW
    2008). Texts of the same shingles are one. Nothing depends on a seed.
    """
    left, right = [shingles(text) for text in some], dict.fromkeys(shingles(text) for text in others)
    asked = set(left)
    count = Counter(one for group in (asked, right) for found in group for one in found)
    index: _Index = {}
    for place, found in enumerate(right):
        for at, one in enumerate(_prefix(found, count, least)):
            index.setdefault(one, []).append((place, found, len(found) - at))
    answers = {found: _has_near(found, index, count, least) for found in asked}
    return [answers[found] for found in left]


def _prefix(found: frozenset[str], count: Counter[str], least: float) -> list[str]:
    ordered = sorted(found, key=lambda one: (count[one], one))
    return ordered[: len(found) - math.ceil(least * len(found)) + 1] if found else []


def _has_near(found: frozenset[str], index: _Index, count: Counter[str], least: float) -> bool:
    size = len(found)
    met: set[int] = set()
    for at, one in enumerate(_prefix(found, count, least)):
        for place, other, rest in index.get(one, ()):
            if place in met:
                continue
            met.add(place)
            most = min(size - at, rest)  # the first that both have: none before it is shared
            both = size + len(other)
            if most >= least * (both - most) and (shared := len(found & other)) >= least * (both - shared):
                return True
    return False
