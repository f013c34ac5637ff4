"""Texts that come with their labels: story corpora, labelled pairs, dialogues, and two sets of memories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.tagged import plain
from amybuild.digest import digest_value
from amybuild.errors import InputError, did_you_mean
from amybuild.memory.dialogue import read_examples
from amybuild.memory.jsonl import read_jsonl
from amybuild.memory.node import Node
from amybuild.memory.stories import read_stories
from amybuild.memory.text import lines_of

FORMS = ("stories", "pairs", "dialogues", "sides")
_SHAPE = '{"emotion", "polarity": "positive" | "negative", "text"}'
_POLARITY = {"positive": 1, "pos": 1, "+": 1, "1": 1, "negative": -1, "neg": -1, "-": -1, "-1": -1}


ANSWER = "\n\nAssistant: "  # between what was said before and a reply


def answer_of(text: str) -> int:
    """The character at which the reply begins, in a text made of a dialogue."""
    return text.rindex(ANSWER) + len(ANSWER)


@dataclass(frozen=True)
class Marked:
    """One unique text with 1 or -1 for each concept that it is a positive or a negative of.

    `settings` are what it shares with other texts beside the concept: a scenario, the nodes it links to.
    """

    id: str
    node: str
    text: str
    marks: Mapping[str, int]
    settings: frozenset[str] = frozenset()


# a text as it is found: where, what, concept -> 1 | -1, its settings
_Found = tuple[str, str, Mapping[str, int], frozenset[str]]


def gather(ctx: ActionContext, form: str, min_chars: int) -> tuple[list[Marked], int]:
    """``(unique texts by id, how many were too short)`` of one of `FORMS`.

    inputs: source (stories: a folder; pairs: JSON lines) or nodes. params, where labels are wanted: ``concept``
    (dialogues, sides) and ``negatives`` (sides: the keys of the nodes on that side).
    """
    if form in ("stories", "pairs"):
        path = ctx.inputs["source"]
        found = _stories(path) if form == "stories" else _pairs(path)
    else:
        nodes = read_jsonl(ctx.inputs["nodes"] / "nodes.jsonl", "nodes.jsonl")
        concept, negatives = str(ctx.params.get("concept", "")), ctx.params.get("negatives", ())
        found = _dialogues(nodes, concept) if form == "dialogues" else _sides(nodes, concept, negatives)
    return unique(found, min_chars)


def unique(found: Iterable[_Found], min_chars: int) -> tuple[list[Marked], int]:
    """Equal texts as one, that is a positive of all that one of them is a positive of; and how many are too short."""
    by_id: dict[str, Marked] = {}
    short = 0
    for node, text, marks, settings in found:
        if len(text) < min_chars:
            short += 1
            continue
        name = digest_value("text", text)[:16]
        before = by_id.get(name)
        if before:
            marks = {c: max(marks.get(c, -1), before.marks.get(c, -1)) for c in {*marks, *before.marks}}
            node, settings = before.node, settings | before.settings
        by_id[name] = Marked(name, node, text, marks, settings)
    return [by_id[name] for name in sorted(by_id)], short


def _stories(folder: Path) -> Iterator[_Found]:
    """A text is a positive of its own concept and a negative of every other one; without a concept, of all of them."""
    stories = read_stories(folder, folder.name)
    concepts = sorted({one.concept for one in stories if one.concept is not None})
    for one in stories:
        marks = {concept: 1 if concept == one.concept else -1 for concept in concepts}
        yield one.place, one.text, marks, frozenset({one.setting} if one.setting is not None else ())


def _pairs(path: Path) -> Iterator[_Found]:
    """JSON lines that say of a text whether an emotion is in it."""
    told: dict[tuple[str, str], tuple[int, int]] = {}
    for number, line in enumerate(lines_of(path, path.name), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        emotion, sign, text = _pair(line, where)
        said, at = told.setdefault((emotion, text), (sign, number))
        if said != sign:
            raise InputError("this text is both", where=where, remedy=f"line {at} says otherwise; remove one of them")
        yield path.name, text, {emotion: sign}, frozenset()


def _pair(line: str, where: str) -> tuple[str, int, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError("not JSON", where=where, remedy=f"a line is {_SHAPE}") from None
    known = ("emotion", "polarity", "text")
    if not isinstance(value, dict) or not set(known) <= value.keys():
        raise InputError("not all of emotion, polarity, text", where=where, remedy=f"a line is {_SHAPE}")
    for name in value:
        if name not in known:
            remedy = did_you_mean(name, known) or f"a line is {_SHAPE}"
            raise InputError(f"unknown key {name[:40]!a}", where=where, remedy=remedy)
    emotion, text, sign = value["emotion"], value["text"], _POLARITY.get(str(value["polarity"]).lower())
    if not isinstance(emotion, str) or not emotion.strip() or not isinstance(text, str) or sign is None:
        raise InputError("a value of another type", where=where, remedy=f"a line is {_SHAPE}")
    if not emotion.strip().isprintable():
        raise InputError("not the name of an emotion", where=where, remedy="a name is one line of printable text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("the text holds half a surrogate pair", where=where, remedy="write it as UTF-8") from None
    return emotion.strip().lower(), sign, " ".join(text.split())


def _dialogues(nodes: Iterable[Node], concept: str) -> Iterator[_Found]:
    """The wanted replies of dialogues against the unwanted ones, each with what was said before (arXiv 2312.06681).

    In a counter case the behaviour should not show, so that there the reply that is wanted is the negative.
    """
    for node in nodes:
        for one in read_examples(node):
            before = "\n\n".join(f"{role.capitalize()}: {text}" for role, text in one.messages)
            sign = -1 if one.counter else 1
            for reply, mark in [(one.continuation, sign), *((reply, -sign) for reply in one.rejected)]:
                yield node.key, f"{before}{ANSWER}{reply}", {concept: mark}, frozenset()


def _sides(nodes: Iterable[Node], concept: str, negatives: Any) -> Iterator[_Found]:
    for node in nodes:
        text, _ = plain(node.content)
        mark = -1 if node.key in negatives else 1
        yield node.key, text, {concept: mark}, frozenset(link.target for link in node.links)
