"""Memories as texts with the scores of their emotion tags: what a model may read of a node, and what it may not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from amybuild.digest import digest_value
from amybuild.errors import InputError
from amybuild.memory.emotion import line_tags, split_tags
from amybuild.memory.markdown import split_front_matter
from amybuild.memory.node import Node
from amybuild.memory.outline import Fence, Heading, walk


@dataclass(frozen=True)
class TaggedText:
    """One unique text with the scores (0-10) of its tags; no `tags` at all means nobody labelled it."""

    id: str
    node: str
    text: str
    tags: Mapping[str, float]
    settings: frozenset[str] = frozenset()  # what the node links to


def plain(content: str) -> tuple[str, dict[str, float]]:
    """``(what a model may read, tags)``: no tag lines, front matter, dialogue blocks, heading or fence marks, comments;
    all white space is single spaces."""
    import re

    commented, end, rest = content.rpartition("-->")  # behind the last end no search for one can succeed
    content = re.sub(r"<!--.*?-->", " ", commented + end, flags=re.DOTALL) + rest
    try:
        content = split_front_matter(content)[1]
    except InputError:  # a line of +++ that opens nothing
        content = content.partition("\n")[2]
    content, tags = split_tags(content)
    parts: list[str] = []
    for block in walk(content):
        if isinstance(block, Heading):
            parts.append(block.title)
        elif isinstance(block, Fence):
            if block.info.split()[:1] != ["dialogue"]:
                parts += block.body
        else:
            parts.append(block.text)
    kept = []
    for part in parts:
        found = line_tags(part)
        if found is None and part.strip(" -*_"):
            kept.append(part)
        for name, score in (found or {}).items():  # tags that something was written below
            tags[name] = max(score, tags.get(name, 0.0))
    return " ".join(" ".join(kept).split()), tags


def collect(nodes: Iterable[Node], min_chars: int) -> tuple[list[TaggedText], int]:
    """``(unique texts by id, how many were too short)``. Equal texts are one; each tag keeps its highest score."""
    found: dict[str, TaggedText] = {}
    short = 0
    for node in sorted(nodes, key=lambda node: node.key):
        text, tags = plain(node.content)
        if len(text) < min_chars:
            short += 1
            continue
        name = digest_value("text", text)[:16]
        before = found.get(name)
        if before:
            tags = {tag: max(tags.get(tag, 0.0), before.tags.get(tag, 0.0)) for tag in {*tags, *before.tags}}
        settings = frozenset(link.target for link in node.links) | (before.settings if before else frozenset())
        found[name] = TaggedText(name, before.node if before else node.key, text, tags, settings)
    return [found[name] for name in sorted(found)], short
