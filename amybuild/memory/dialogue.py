"""The examples of a node: its dialogue blocks and its JSONL file, read into `Example` values."""

from __future__ import annotations

from collections.abc import Iterable

from amybuild.errors import did_you_mean
from amybuild.memory.example import Example, Place, Turn, bad, checked
from amybuild.memory.lines import read_lines
from amybuild.memory.node import Node, find_section
from amybuild.memory.outline import Fence, walk

_SPEAKERS = {"System": "system", "User": "user", "Assistant": "assistant", "Not": "not"}
_WORDS = ("counter",)
_FORM = "a block is User: … / Assistant: … / Not: … ; indent a line that is no new turn"


def read_examples(node: Node, section: str | None = None) -> list[Example]:
    """All examples of `node` in their order: its dialogue blocks (of one section, if named), then its examples file.

    The examples file belongs to the whole node. What is malformed is an `InputError` with node and line, without text.
    """
    text, first = node.content, 1
    if section is not None:
        first, text = find_section(node, section)
    found = _dialogues(node, text, first)
    if section is None and node.examples is not None:
        found += read_lines(
            node.key, node.examples.split("\n"), lambda line: f"node {node.key}, line {line} of its examples file"
        )
    return found


def _dialogues(node: Node, text: str, first: int) -> list[Example]:
    if "```" not in text and "~~~" not in text:
        return []
    found: list[Example] = []
    for fence in walk(text):
        if not isinstance(fence, Fence):
            continue
        line = fence.line + first - 1
        kind, *words = fence.info.split() or [""]
        if not fence.closed or any(_opens_dialogue(inner, fence.mark) for inner in fence.body):
            raise bad(node.place(line), "this fence is not closed", "end the block with a line of ``` alone")
        if kind != "dialogue":
            if kind.casefold().startswith("dialog"):
                raise bad(node.place(line), "not a known kind of block", "did you mean 'dialogue'?")
            continue
        for word in words:
            if word not in _WORDS:
                hint = did_you_mean(word, _WORDS) or f"known words: {', '.join(_WORDS)}"
                raise bad(node.place(line), "an unknown word after 'dialogue'", hint)
        found.append(_example(node.key, node.place, line, _turns(node.place, line, fence.body), "counter" in words))
    return found


def _opens_dialogue(line: str, mark: str) -> bool:
    """Whether a block begins inside one of no longer marks: then the outer one was left open by mistake."""
    bare = line.strip(" ")
    return bare.startswith(mark) and bare.lstrip(mark[0] + " ").startswith("dialogue")


def _turns(place: Place, opening: int, body: Iterable[str]) -> list[Turn]:
    """The turns of a block: a line ``Speaker: text`` starts one, further lines belong to it."""
    turns: list[tuple[int, str, list[str]]] = []
    for line, text in enumerate(body, start=opening + 1):
        name, colon, rest = text.partition(":")
        if colon and name in _SPEAKERS:
            turns.append((line, _SPEAKERS[name], [rest.strip()]))
        elif colon and _looks_like_speaker(name):
            hint = f"a speaker is one of {', '.join(_SPEAKERS)}; indent the line if it is text"
            raise bad(place(line), "an unknown speaker", hint)
        elif turns:
            turns[-1][2].append(text.rstrip())
        elif text.strip():
            raise bad(place(line), "text before the first speaker", _FORM)
    return [(line, role, _join(lines)) for line, role, lines in turns]


def _looks_like_speaker(name: str) -> bool:
    """A slip such as ``Assitant:``, ``USER:`` or ``**User:**``, which would else vanish into the turn before it."""
    bare = name.strip("*_> ")
    if name.startswith(" ") or not bare.isalpha():
        return False
    import difflib  # here, since in most dialogues no line looks like one

    # "Note:" and "Now:" are words people write: for "Not" only its other spellings count
    long = ("User", "Assistant", "System")
    return bare.title() in _SPEAKERS or bool(difflib.get_close_matches(bare, long, n=1, cutoff=0.8))


def _join(lines: list[str]) -> str:
    further = [line for line in lines[1:] if line]
    indent = min((len(line) - len(line.lstrip()) for line in further), default=0)
    return "\n".join([lines[0], *(line[indent:] for line in lines[1:])]).strip()


def _example(key: str, place: Place, line: int, turns: list[Turn], counter: bool) -> Example:
    for at, _, text in turns:
        if not text:
            raise bad(place(at), "an empty turn", "write what is said, or remove the line")
    said = [turn for turn in turns if turn[1] != "not"]
    if not any(role == "assistant" for _, role, _ in said):
        raise bad(place(line), "a dialogue without an Assistant turn", _FORM)
    for at, role, _ in turns[: len(said)]:
        if role == "not":
            raise bad(place(at), "a 'Not:' before the last Assistant turn", "'Not:' lines come after it, at the end")
    if said[-1][1] != "assistant":
        raise bad(place(said[-1][0]), "a turn after the last Assistant turn", "end with Assistant:, then Not: lines")
    rejected = [text for _, role, text in turns if role == "not"]
    return checked(key, place, said[:-1], said[-1], rejected, counter)
