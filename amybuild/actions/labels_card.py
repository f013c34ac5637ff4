"""The card of labelled texts: how many per concept, in how many settings, and which known traps they are near."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from amybuild.actions.corpus_card import MOST, lengths, same_ending
from amybuild.actions.marked import Marked

FEW = 8
ISLAND = 0.8  # of the positives, and at most the rest of the negatives: then a direction is one of form
# what a text is like beside what it says; each by itself has made a direction of form out of one of meaning
FORMATS: Mapping[str, re.Pattern[str]] = {
    "in the first person": re.compile(r"(?<![\w'\u2019])(?:I|I['\u2019]\w+|[Mm]y|[Mm]e|[Mm]yself)(?![\w'\u2019])"),
    "addressed to you": re.compile(r"(?<!\w)[Yy]ou(?!\w)"),
    "written as turns": re.compile(r"(?:^|\n)[ \t]*[A-Z][\w ]{0,20}: "),
    "marked up": re.compile(r"<\||\*\*|`|^#|</?\w+>"),
    "a question": re.compile(r"\?[\"'\u201d\u2019)]*\s*\Z"),
}
_TEMPLATE = re.compile(r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<(?:start|end)_of_turn>")
_QUOTED = re.compile('"[^"]*"|\u201c[^\u201d]*\u201d')  # who speaks in a story says I


def card(texts: Sequence[Marked], labels: Mapping[str, Mapping[str, int]], dropped: int = 0) -> dict[str, Any]:
    """Counts per concept and warnings about known traps; no text. ``concepts`` is in the order of readout rows."""
    by_id = {one.id: one for one in texts}
    warnings: list[str] = []
    per_concept: dict[str, Any] = {}
    positive: dict[str, set[str]] = {}
    for concept, marks in labels.items():
        good = [by_id[name] for name in sorted(marks) if marks[name] > 0]
        bad = [by_id[name] for name in sorted(marks) if marks[name] < 0]
        positive[concept] = {one.id for one in good}
        settings = {setting for one in good for setting in one.settings}
        known = any(one.settings for one in (*good, *bad))
        per_concept[concept] = {
            "positives": len(good),
            "negatives": len(bad),
            "settings": len(settings) if known else None,
            "characters": lengths([len(one.text) for one in good]),
        }
        warnings += [f"{concept}: {said}" for said in traps(good, bad)]
    for a, b in combinations(labels, 2):
        shared = len(positive[a] & positive[b]) / len(positive[a] | positive[b])
        if shared > 0.5:
            warnings.append(f"{a} and {b}: {shared:.0%} of their positives are the same texts; no independent axes")
    labelled = [by_id[name].text for name in sorted({name for marks in labels.values() for name in marks})]
    if (share := same_ending(labelled)) >= MOST:
        warnings.append(f"{share:.0%} of all texts end in the same word: read at the last token, they are one")
    if marked := sum(_TEMPLATE.search(text) is not None for text in labelled):
        warnings.append(f"{marked} texts hold marks of a chat template: what a model does there is not their meaning")
    if dropped:
        warnings.append(f"{dropped} frequent tags left out: without both positives and negatives")
    return {"concepts": list(labels), "per_concept": per_concept, "warnings": warnings}


def traps(good: Sequence[Marked], bad: Sequence[Marked]) -> list[str]:
    """What could make a direction between these texts one of something else than their concept."""
    found = []
    if len(good) < FEW:
        found.append(f"only {len(good)} positives")
    if len(bad) < FEW:
        found.append(f"only {len(bad)} negatives")
    ratio = fmean(len(one.text) for one in good) / fmean(len(one.text) for one in bad)
    if not 0.5 <= ratio <= 2:
        found.append(f"positives are {ratio:.2g} times as long as negatives")
    shared = frozenset.intersection(*(one.settings for one in good))
    if any(fmean(setting in one.settings for one in bad) < 0.5 for setting in shared):
        found.append(f"all {len(good)} positives share one setting: the direction may be that of the setting")
    if (share := same_ending([one.text for one in good])) >= MOST > same_ending([one.text for one in bad]):
        found.append(f"{share:.0%} of the positives end in the same word")
    for name, pattern in FORMATS.items():
        here, there = _share(good, pattern), _share(bad, pattern)
        if (here >= ISLAND and there <= 1 - ISLAND) or (here <= 1 - ISLAND and there >= ISLAND):
            found.append(f"{here:.0%} of the positives and {there:.0%} of the negatives are {name}: a format island")
    return found


def _share(texts: Iterable[Marked], pattern: re.Pattern[str]) -> float:
    return fmean(pattern.search(_QUOTED.sub("", one.text)) is not None for one in texts)
