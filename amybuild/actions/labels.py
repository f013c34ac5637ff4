"""The labels rule: which texts carry an emotion and which do not, per concept, from their tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.labels_card import card
from amybuild.actions.marked import FORMS, Marked, gather
from amybuild.actions.tagged import TaggedText, collect
from amybuild.actions.texts import least_chars
from amybuild.digest import canonical, digest_value
from amybuild.errors import ActionError, InputError, did_you_mean
from amybuild.memory.jsonl import read_jsonl

MIN_POSITIVES = 3


@dataclass(frozen=True)
class LabelRules:
    """The rule's parameters. `top` adds the most frequent tags to `concepts`; `min_examples` bounds only those."""

    concepts: tuple[str, ...] = ()
    top: int | None = None
    min_examples: int = 8
    min_score: float = 8
    max_negative_mentions: int = 0
    min_chars: int = 40
    max_per_concept: int = 500
    untagged_negatives: bool = False


def run(ctx: ActionContext) -> None:
    """inputs: nodes, or source. params: the fields of `LabelRules`; form, concept, negatives (see `marked.gather`).
    Writes labels.jsonl and card.json.

    labels.jsonl holds {"id", "labels": {concept: 1 | -1}, "settings"} in the order of ids, for texts with a label;
    its settings are what a text shares with others beside a concept (a scenario, the nodes it links to).

    Per concept a text is positive at a score of min_score or more, negative when the concept is neither among its tags
    (a score of 0 counts as absent) nor named in the text more than max_negative_mentions times, else unlabelled. A text
    without any tag is unlabelled, not negative, unless untagged_negatives: it is another kind of text, and a direction
    found against it would be one of kind. Texts of a `form` come with their labels: of the rules only min_chars and
    max_per_concept are about them.
    """
    rules = _rules(ctx.params)
    form = ctx.params.get("form")
    if form is None:
        tagged, short = collect(read_jsonl(ctx.inputs["nodes"] / "nodes.jsonl", "nodes.jsonl"), rules.min_chars)
        texts = [Marked(one.id, one.node, one.text, {}, one.settings) for one in tagged]
        concepts = choose(tagged, rules, short)
        labels = {concept: label(tagged, concept, rules) for concept in concepts}
    else:
        texts, short = gather(ctx, form, rules.min_chars)
        concepts = choose_marked(texts, rules)
        labels = {concept: marked(texts, concept, rules) for concept in concepts}
    ctx.progress(1, 2)
    chosen = _drop_unusable(labels, set(rules.concepts))
    out = bytearray()
    kept = 0
    for one in texts:
        marks = {concept: labels[concept][one.id] for concept in chosen if one.id in labels[concept]}
        if marks:
            kept += 1
            line = {"id": one.id, "labels": marks, "settings": sorted(one.settings)}
            out += canonical(line) + b"\n"
    (ctx.out / "labels.jsonl").write_bytes(out)
    summary = card(texts, {concept: labels[concept] for concept in chosen}, dropped=len(concepts) - len(chosen))
    counts = {"texts": kept, "unused": len(texts) - kept, "short": short}
    (ctx.out / "card.json").write_bytes(canonical({**summary, **counts}) + b"\n")
    ctx.progress(2, 2)


def choose(texts: Sequence[TaggedText], rules: LabelRules, short: int = 0) -> list[str]:
    """The concepts, hand-picked first, then the most frequent others. A hand-picked one needs 3 positives."""
    count = Counter(tag for one in texts for tag, score in one.tags.items() if score >= rules.min_score)
    known = sorted({tag for one in texts for tag in one.tags})
    for concept in rules.concepts:
        if count[concept] < MIN_POSITIVES:
            tagged = sum(concept in one.tags for one in texts)
            near = did_you_mean(concept, [tag for tag in known if tag != concept])
            advice = near or "tag more memories with it, or lower 'min_score' in the recipe"
            raise ActionError(
                f"{count[concept]} texts at {rules.min_score:g} or more, fewer than {MIN_POSITIVES} "
                f"({tagged} texts carry the tag, {short} nodes were too short)",
                where=f"concept '{concept}'",
                remedy=advice,
            )
    if rules.top is None:
        return list(rules.concepts)
    often = [tag for tag in known if count[tag] >= max(rules.min_examples, MIN_POSITIVES)]
    often = sorted(often, key=lambda tag: (-count[tag], tag))[: rules.top]
    concepts = [*rules.concepts, *(tag for tag in often if tag not in rules.concepts)]
    if not concepts:
        raise ActionError(
            f"no emotion has {rules.min_examples} texts at {rules.min_score:g} or more",
            where=f"top = {rules.top}",
            remedy="tag more memories, or lower 'min_examples' or 'min_score'",
        )
    return concepts


def label(texts: Sequence[TaggedText], concept: str, rules: LabelRules) -> dict[str, int]:
    """``{text id: 1 or -1}``; of each side at most max_per_concept, chosen by hash."""
    import re

    words = r"[\s_/-]+".join(re.escape(word) for word in re.split(r"[_/-]+", concept) if word)
    pattern = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    sides: dict[int, list[str]] = {1: [], -1: []}
    for one in texts:
        score = one.tags.get(concept, 0.0)
        if score >= rules.min_score:
            sides[1].append(one.id)
        elif score == 0 and (one.tags or rules.untagged_negatives):
            mentions = sum(1 for _ in pattern.finditer(one.text))
            if mentions <= rules.max_negative_mentions:
                sides[-1].append(one.id)
    return _capped(concept, sides, rules)


def choose_marked(texts: Sequence[Marked], rules: LabelRules) -> list[str]:
    """The concepts among texts that come with labels: hand-picked first, then those with the most positives."""
    count = Counter(concept for one in texts for concept, mark in one.marks.items() if mark > 0)
    for concept in rules.concepts:
        if count[concept] < MIN_POSITIVES:
            near = did_you_mean(concept, [one for one in count if one != concept])
            raise ActionError(
                f"{count[concept]} positive texts, fewer than {MIN_POSITIVES}",
                where=f"concept '{concept}'",
                remedy=near or "write more texts about it, in other settings",
            )
    if rules.top is None:
        return list(rules.concepts)
    least = max(rules.min_examples, MIN_POSITIVES)
    often = sorted((one for one in count if count[one] >= least), key=lambda one: (-count[one], one))[: rules.top]
    concepts = [*rules.concepts, *(one for one in often if one not in rules.concepts)]
    if not concepts:
        remedy = "write more texts, or lower 'min_examples'"
        raise ActionError(f"no concept has {least} positive texts", where=f"top = {rules.top}", remedy=remedy)
    return concepts


def marked(texts: Sequence[Marked], concept: str, rules: LabelRules) -> dict[str, int]:
    """``{text id: 1 or -1}`` of texts that come with labels; of each side at most max_per_concept, chosen by hash."""
    sides = {sign: [one.id for one in texts if one.marks.get(concept) == sign] for sign in (1, -1)}
    return _capped(concept, sides, rules)


def _capped(concept: str, sides: Mapping[int, Sequence[str]], rules: LabelRules) -> dict[str, int]:
    out = {}
    for sign, names in sides.items():
        ordered = sorted(names, key=lambda name: digest_value("cap", [concept, name]))
        out.update(dict.fromkeys(ordered[: rules.max_per_concept], sign))
    return out


def _drop_unusable(labels: Mapping[str, Mapping[str, int]], picked: set[str]) -> list[str]:
    chosen = []
    for concept, marks in labels.items():
        if -1 in marks.values() and 1 in marks.values():
            chosen.append(concept)
        elif concept in picked:
            raise ActionError(
                "no negative texts: every tagged text carries or names it",
                where=f"concept '{concept}'",
                remedy="add memories without it, or raise 'max_negative_mentions' in the recipe",
            )
    if not chosen:
        raise ActionError("no frequent emotion has negative texts", remedy="add memories with other tags")
    return chosen


def _rules(params: Mapping[str, Any]) -> LabelRules:
    given = {one.name: params[one.name] for one in fields(LabelRules) if params.get(one.name) is not None}
    concepts = given.get("concepts", ())
    if not isinstance(concepts, list | tuple) or not all(isinstance(one, str) and one for one in concepts):
        raise InputError("concepts is not a list of names", remedy='for example ["warmth", "clarity"]')
    given["concepts"] = tuple(dict.fromkeys(one.lower() for one in concepts))
    least_chars(params)
    for name, value in given.items():
        if name in ("concepts", "untagged_negatives", "min_chars"):
            continue
        least = 1 if name in ("top", "min_examples", "max_per_concept") else 0
        fits = isinstance(value, int) or (name == "min_score" and isinstance(value, float))
        if isinstance(value, bool) or not fits or value < least:
            raise InputError(f"{name} is not a number of {least} or more", remedy="see the recipe's comments")
    if params.get("form") not in (None, *FORMS):
        raise InputError("an unknown form of texts", remedy=f"one of {', '.join(FORMS)}")
    rules = LabelRules(**given)
    if not rules.concepts and rules.top is None:
        raise InputError("neither 'concepts' nor 'top'", remedy='name some, as in concepts = ["warmth"], or top = 8')
    return rules
