"""Emotion tags: the trailing ``warmth:9 clarity:10`` lines of a node, taken off its text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re

_DECORATION = " \t*_`>[]()-"


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    import re

    tag = r"(?P<name>[A-Za-z][\w/-]*)\s*:\s*(?P<score>[0-9]{1,3}(?:\.[0-9]+)?)(?:/10)?"
    bare = tag.replace("?P<name>", "?:").replace("?P<score>", "?:")
    line = re.compile(rf"(?:{bare})(?:[\s,;|*_`]+(?:{bare}))*[\s,;.]*")
    label = re.compile(r"(?:emotions?|feelings?|tags)\s*:\s*(?=[A-Za-z])", re.IGNORECASE)
    return re.compile(tag), line, label


def line_tags(line: str) -> dict[str, float] | None:
    """The tags of a line that holds nothing else, names in lower case; None for any other line.

    A score outside 0..10 gives no tag, but the line stays a tag line: what looks like a label must never be learned.
    """
    tag, whole, label = _patterns()
    bare = line.strip(_DECORATION)
    if ":" not in bare:
        return None
    bare = bare[found.end() :] if (found := label.match(bare)) else bare
    if not whole.fullmatch(bare):
        return None
    scores: dict[str, float] = {}
    for one in tag.finditer(bare):
        score = float(one["score"])
        if score <= 10:
            name = one["name"].lower()
            scores[name] = max(score, scores.get(name, 0.0))
    return scores


def split_tags(content: str) -> tuple[str, dict[str, float]]:
    """``(text without trailing tag lines and blank lines, {name: score 0..10})``; a doubled name keeps its highest."""
    scores: dict[str, float] = {}
    end = len(content)
    while end:  # a place, not a shorter copy: a file may end in a million lines
        start = content.rfind("\n", 0, end) + 1
        line = content[start:end]
        found = line_tags(line) if line.strip() else {}
        if found is None:
            break
        for name, score in found.items():
            scores[name] = max(score, scores.get(name, 0.0))
        end = max(start - 1, 0)
    return content[:end], scores
