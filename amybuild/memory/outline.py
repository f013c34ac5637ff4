"""A walk over Markdown that knows headings from the text inside fences, with line numbers."""

# no `annotations` from __future__: NamedTuple compiles each annotation that is a text, longer than an edit takes
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import re


class Heading(NamedTuple):
    """An ATX heading: ``## title``. `line` is 1-based."""

    line: int
    level: int
    title: str


class Fence(NamedTuple):
    """A fenced block. `line` is its opening fence's; `body` is what lies between, less that fence's indent."""

    line: int
    mark: str
    info: str
    body: tuple[str, ...]
    closed: bool


class Prose(NamedTuple):
    """Any other line."""

    line: int
    text: str


Block = Heading | Fence | Prose


class Section(NamedTuple):
    """The text under a heading: `line` is the number of its first line in the node's content."""

    line: int
    text: str


@lru_cache(maxsize=1)
def _patterns() -> "tuple[re.Pattern[str], re.Pattern[str]]":
    import re  # here, so that a build with nothing to do compiles no pattern

    # of lines without spaces at their end: a pattern that looks for those itself tries every space inside as well
    heading = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?")
    fence = re.compile(r"( {0,3})(`{3,}|~{3,})[ \t]*(.*)")
    return heading, fence


def walk(text: str) -> Iterator[Block]:
    """The blocks of `text` in order (CommonMark's rules for fences and ATX headings)."""
    heading, fence = _patterns()
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        number = at + 1
        at += 1
        mark = line.lstrip(" ")[:1]
        if mark == "#" and (found := heading.fullmatch(line.rstrip(" \t"))):
            yield Heading(number, len(found[1]), _unclosed(found[2] or ""))
            continue
        opening = fence.fullmatch(line.rstrip(" \t")) if mark in ("`", "~") else None
        if opening is None or (mark == "`" and "`" in opening[3]):
            yield Prose(number, line)
            continue
        body: list[str] = []
        closed = False
        while at < len(lines):
            inner = lines[at]
            at += 1
            closing = fence.fullmatch(inner.rstrip(" \t"))
            if closing and closing[2][0] == mark and len(closing[2]) >= len(opening[2]) and not closing[3]:
                closed = True
                break
            indent = len(inner) - len(inner.lstrip(" "))
            body.append(inner[min(indent, len(opening[1])) :])
        yield Fence(number, opening[2], opening[3], tuple(body), closed)


def _unclosed(title: str) -> str:
    """A heading's title without the signs that may close it: ``title ##``."""
    bare = title.rstrip("#")
    return bare.rstrip(" \t") if not bare or bare[-1] in " \t" else title


def slug(title: str) -> str:
    """How a section is addressed: lower case, runs of spaces as one hyphen."""
    return "-".join(title.casefold().split())


def sections(text: str) -> list[tuple[str, Section]]:
    """``(slug, section)`` of every ``## heading``, each up to the next heading of level 1 or 2."""
    lines = text.split("\n")
    heads = [block for block in walk(text) if isinstance(block, Heading) and block.level <= 2]
    ends = [*(head.line - 1 for head in heads[1:]), len(lines)][: len(heads)]
    return [
        (slug(head.title), Section(head.line + 1, "\n".join(lines[head.line : end])))
        for head, end in zip(heads, ends, strict=True)
        if head.level == 2
    ]
