"""Dialogue blocks and JSONL examples of a node, read into `Example` values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amybuild.digest import digest_value
from amybuild.errors import InputError, did_you_mean
from amybuild.memory.node import Node, clean, find_section
from amybuild.memory.outline import Fence, walk

_SPEAKERS = {"System": "system", "User": "user", "Assistant": "assistant", "Not": "not"}
_WORDS = ("counter",)
_FORM = "a block is User: … / Assistant: … / Not: … ; indent a line that is no new turn"
_SHAPES = '{"id","context","continuation","rejected"?,"reason"?,"counter"?} or {"messages":[…],"rejected"?,"counter"?}'
_KEYS = ("id", "context", "messages", "continuation", "rejected", "reason", "counter")

Turn = tuple[int, str, str]  # line, role, text
Place = Callable[[int], str]  # where a line is, for messages


@dataclass(frozen=True)
class Example:
    """One case of a behaviour: what was said before, the reply that is learned, and replies that are not.

    `messages` are ``(role, text)`` pairs that end with a user turn. `counter` marks a case in which the behaviour
    should NOT show: its continuation is then the right reply. `id` depends on the content alone (16 hex digits).
    """

    id: str
    node: str
    messages: tuple[tuple[str, str], ...]
    continuation: str
    rejected: tuple[str, ...] = ()
    counter: bool = False

    def chat(self) -> list[dict[str, str]]:
        """`messages` as chat templates take them."""
        return [{"role": role, "content": text} for role, text in self.messages]


def make_example(
    node: str,
    messages: Sequence[tuple[str, str]],
    continuation: str,
    rejected: Sequence[str] = (),
    counter: bool = False,
) -> Example:
    """An `Example` with the id of its content."""
    content = {
        "messages": [list(one) for one in messages],
        "continuation": continuation,
        "rejected": list(rejected),
        "counter": counter,
    }
    name = digest_value("example", content)[:16]
    return Example(name, node, tuple(messages), continuation, tuple(rejected), counter)


def read_examples(node: Node, section: str | None = None) -> list[Example]:
    """All examples of `node` in their order: its dialogue blocks (of one section, if named), then its examples file.

    The examples file belongs to the whole node. What is malformed is an `InputError` with node and line, without text.
    """
    text, first = node.content, 1
    if section is not None:
        first, text = find_section(node, section)
    found = _dialogues(node, text, first)
    if section is None and node.examples is not None:
        found += _jsonl(node, node.examples)
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
            raise _bad(node.place(line), "this fence is not closed", "end the block with a line of ``` alone")
        if kind != "dialogue":
            if kind.casefold().startswith("dialog"):
                raise _bad(node.place(line), "not a known kind of block", "did you mean 'dialogue'?")
            continue
        for word in words:
            if word not in _WORDS:
                hint = did_you_mean(word, _WORDS) or f"known words: {', '.join(_WORDS)}"
                raise _bad(node.place(line), "an unknown word after 'dialogue'", hint)
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
            raise _bad(place(line), "an unknown speaker", hint)
        elif turns:
            turns[-1][2].append(text.rstrip())
        elif text.strip():
            raise _bad(place(line), "text before the first speaker", _FORM)
    return [(line, role, _join(lines)) for line, role, lines in turns]


def _looks_like_speaker(name: str) -> bool:
    """A slip such as ``Assitant:``, ``USER:`` or ``**User:**``, which would else vanish into the turn before it."""
    bare = name.strip("*_> ")
    if name.startswith(" ") or not bare.isalpha():
        return False
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
            raise _bad(place(at), "an empty turn", "write what is said, or remove the line")
    said = [turn for turn in turns if turn[1] != "not"]
    if not any(role == "assistant" for _, role, _ in said):
        raise _bad(place(line), "a dialogue without an Assistant turn", _FORM)
    for at, role, _ in turns[: len(said)]:
        if role == "not":
            raise _bad(place(at), "a 'Not:' before the last Assistant turn", "'Not:' lines come after it, at the end")
    if said[-1][1] != "assistant":
        raise _bad(place(said[-1][0]), "a turn after the last Assistant turn", "end with Assistant:, then Not: lines")
    rejected = [text for _, role, text in turns if role == "not"]
    return _checked(key, place, said[:-1], said[-1], rejected, counter)


def _checked(key: str, place: Place, context: list[Turn], reply: Turn, rejected: list[str], counter: bool) -> Example:
    wanted = "user"
    for number, (at, role, _) in enumerate(context):
        if number == 0 and role == "system":
            continue
        if role != wanted:
            what = f"{role} speaks where {wanted} should"
            raise _bad(place(at), what, "after an optional System turn, User and Assistant take turns")
        wanted = "assistant" if role == "user" else "user"
    if not context or context[-1][1] != "user":
        raise _bad(place(reply[0]), "no User turn before the last Assistant turn", "say what it is a reply to")
    if reply[2] in rejected or len(set(rejected)) < len(rejected):
        raise _bad(
            place(reply[0]), "the same reply twice", "rejected replies differ from the learned one and each other"
        )
    return make_example(key, [(role, text) for _, role, text in context], reply[2], rejected, counter)


def _bad(where: str, what: str, remedy: str) -> InputError:
    return InputError(what, where=where, remedy=remedy)


def _jsonl(node: Node, text: str) -> list[Example]:
    def place(line: int) -> str:
        return f"node {node.key}, line {line} of its examples file"

    found: list[Example] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise _bad(place(number), "not JSON", f"a line is {_SHAPES}") from None
        found.append(_json_example(node.key, place, number, value))
    return found


def _json_example(key: str, place: Place, at: int, value: Any) -> Example:
    where = place(at)
    if not isinstance(value, Mapping):
        raise _bad(where, "not a JSON object", f"a line is {_SHAPES}")
    for name in value:
        if name not in _KEYS:
            raise _bad(where, f"unknown key {name[:40]!a}", did_you_mean(name, _KEYS) or f"a line is {_SHAPES}")
    if ("messages" in value) == ("context" in value):
        raise _bad(where, "neither or both of 'context' and 'messages'", f"a line is {_SHAPES}")
    counter = value.get("counter", False)
    if not isinstance(counter, bool):
        raise _bad(where, "'counter' is not true or false", "remove it or write true")
    given = value.get("rejected")
    several = given if isinstance(given, list) else [] if given is None else [given]
    rejected = [_said(where, one) for one in several]
    if "messages" in value:
        if "continuation" in value:
            raise _bad(where, "both 'messages' and 'continuation'", "the last message is the continuation")
        turns = _messages(where, at, value["messages"])
        if not turns or turns[-1][1] != "assistant":
            raise _bad(where, "the last message is not the assistant's", "end with the reply that is learned")
        return _checked(key, place, turns[:-1], turns[-1], rejected, counter)
    context = value["context"]
    turns = [(at, "user", _said(where, context))] if isinstance(context, str) else _messages(where, at, context)
    reply = (at, "assistant", _said(where, value.get("continuation")))
    return _checked(key, place, turns, reply, rejected, counter)


def _messages(where: str, at: int, value: object) -> list[Turn]:
    if not isinstance(value, list):
        raise _bad(where, "not a list of messages", 'a message is {"role": "user", "content": "…"}')
    turns: list[Turn] = []
    for one in value:
        role = one.get("role") if isinstance(one, Mapping) else None
        if role not in ("system", "user", "assistant"):
            raise _bad(where, "a message without a known role", "roles: system, user, assistant")
        turns.append((at, str(role), _said(where, one.get("content"))))
    return turns


def _said(where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad(where, "an empty or missing text", f"a line is {_SHAPES}")
    try:
        return clean(value).strip()
    except InputError as error:
        raise _bad(where, error.what, error.remedy or "") from None
