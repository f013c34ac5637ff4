"""Dialogue blocks, JSONL examples and emotion tags."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory.dialogue import read_examples
from amybuild.memory.emotion import line_tags, split_tags
from amybuild.memory.example import Example
from amybuild.memory.node import Node


def block(body: str, info: str = "dialogue") -> str:
    return f"```{info}\n{body}\n```\n"


def one(text: str) -> Example:
    found = read_examples(Node("p", content=text))
    assert len(found) == 1
    return found[0]


def test_a_block_is_read() -> None:
    example = one(block("User: I put it off.\nAssistant: What makes it heavy?\nNot: Just call.\nNot: Five tips."))
    assert example.messages == (("user", "I put it off."),)
    assert example.continuation == "What makes it heavy?"
    assert example.rejected == ("Just call.", "Five tips.")
    assert not example.counter
    assert len(example.id) == 16


def test_turns_go_over_lines_and_contexts_over_turns() -> None:
    body = (
        "System: Be brief.\nUser: One\n\n  two:\nAssistant: Three\n"
        "User:\n  def f():\n      pass\nAssistant: Note:\n  User: x"
    )
    example = one(block(body, "dialogue counter"))
    assert example.messages == (
        ("system", "Be brief."),
        ("user", "One\n\ntwo:"),
        ("assistant", "Three"),
        ("user", "def f():\n    pass"),
    )
    assert example.continuation == "Note:\nUser: x"
    assert example.counter


def test_only_dialogue_fences_count() -> None:
    shown = (
        "````\n"
        + block("User: a\nAssistant: b")
        + "````\n```python\nUser: a\n```\n~~~dialogue\nUser: c\nAssistant: d\n~~~"
    )
    assert one(shown).messages == (("user", "c"),)


def test_a_section_has_its_own_examples() -> None:
    text = "## a\n" + block("User: 1\nAssistant: 2") + "## b\n" + block("User: 3\nAssistant: 4")
    node = Node("p", content=text, examples='{"context":"5","continuation":"6"}')
    assert [one.continuation for one in read_examples(node)] == ["2", "4", "6"]
    assert [one.continuation for one in read_examples(node, "b")] == ["4"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (block("User: hush"), 2, "without an Assistant turn"),
        (block("Assistant: hush"), 3, "no User turn before"),
        (block("User: a\nNot: b\nAssistant: hush"), 4, "before the last Assistant"),
        (block("User: hush\nAssistant:"), 4, "an empty turn"),
        (block("User: a\nAssistant: hush\nNot:  "), 5, "an empty turn"),
        (block("User: a\nAssistant: b\nUser: hush"), 5, "after the last Assistant"),
        (block("User: a\nUser: hush\nAssistant: b"), 4, "user speaks where assistant should"),
        (block("User: a\nSystem: hush\nAssistant: b"), 4, "system speaks where"),
        (block("Assistant: a\nUser: hush\nAssistant: b"), 3, "assistant speaks where user"),
        (block("hush\nUser: a\nAssistant: b"), 3, "before the first speaker"),
        (block("User: a\nAssitant: hush"), 4, "unknown speaker"),
        (block("User: a\n**Assistant:** hush"), 4, "unknown speaker"),
        (block("User: a\nAssistant: hush\nNOT: c"), 5, "unknown speaker"),
        (block("User: a\nAssistant: hush\nNot: hush"), 4, "the same reply twice"),
        (block("User: a\nAssistant: hush", "dialogue countr"), 2, "did you mean 'counter'"),
        (block("User: a\nAssistant: hush", "dialogues"), 2, "did you mean 'dialogue'"),
        ("```dialogue\nUser: a\nAssistant: hush", 2, "not closed"),
        ("```dialogue\nUser: a\nAssistant: hush\n" + block("User: a\nAssistant: b"), 2, "not closed"),
        ("```python\nhush\n" + block("User: a\nAssistant: b") + "```dialogue", 2, "not closed"),
    ],
)
def test_a_bad_block_names_the_place_and_quotes_nothing(text: str, line: int, says: str) -> None:
    in_file = Node("p", content="\n" + text, source="memory/p.md", line=6)
    with pytest.raises(InputError, match=rf"memory/p\.md:{line + 5}: (.|\n)*{says}") as caught:
        read_examples(in_file)
    assert "hush" not in str(caught.value)
    with pytest.raises(InputError, match=rf"node p, line {line} of its text"):
        read_examples(Node("p", content="\n" + text))


def test_a_bad_block_in_a_section_names_the_line_of_the_file() -> None:
    node = Node("p", content="# t\n## s\n" + block("User: a"), source="memory/p.md", line=1)
    with pytest.raises(InputError, match=r"memory/p\.md:3: "):
        read_examples(node, "s")


def test_jsonl_shapes_equal_the_block() -> None:
    lines = [
        {"id": "x", "context": "a", "continuation": "b", "rejected": "c", "reason": "why"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": ["c"]},
        {"context": [{"role": "user", "content": " a "}], "continuation": "b\n", "rejected": "c", "counter": False},
    ]
    node = Node("p", examples="\n".join(map(json.dumps, lines)) + "\n\n")
    assert set(read_examples(node)) == {one(block("User: a\nAssistant: b\nNot: c"))}


@pytest.mark.parametrize(
    "line",
    [
        "hush",
        "[]",
        "{}",
        '{"context":"hush"}',
        '{"context":"hush","continuation":3}',
        '{"context":"","continuation":"hush"}',
        '{"context":"a","continuation":"hush","regected":"b"}',
        '{"context":"a","continuation":"hush","counter":"yes"}',
        '{"context":"a","continuation":"hush","rejected":""}',
        '{"context":"a","continuation":"hush","messages":[]}',
        '{"context":[{"role":"assistant","content":"hush"}],"continuation":"b"}',
        '{"context":[],"continuation":"hush"}',
        '{"context":3,"continuation":"hush"}',
        '{"messages":[]}',
        '{"messages":[{"role":"user","content":"hush"}]}',
        '{"messages":[{"role":"narrator","content":"hush"}]}',
        '{"messages":[{"role":"assistant","content":"hush"}],"continuation":"x"}',
        '{"context":"a","continuation":"\\ud800hush"}',
    ],
)
def test_a_bad_jsonl_line_names_the_place_and_quotes_nothing(line: str) -> None:
    with pytest.raises(InputError, match="node p, line 2 of its examples file") as caught:
        read_examples(Node("p", examples="\n" + line))
    assert "hush" not in str(caught.value)


pieces = st.sampled_from(
    [
        "```dialogue\n",
        "```\n",
        "User: a\n",
        "Assistant: b\n",
        "Not: c\n",
        "## h\n",
        "x\n",
        "~~~\n",
        " warmth:9\n",
        "```py\n",
    ]
)


@given(st.lists(pieces, max_size=12).map("".join) | st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    found: list[Example] = []
    with contextlib.suppress(InputError):
        found = read_examples(Node("p", content=text))
    assert all(one.messages[-1][0] == "user" and one.continuation for one in found)


@pytest.mark.parametrize(
    ("line", "tags"),
    [
        ("warmth:9 clarity:10", {"warmth": 9, "clarity": 10}),
        ("Warmth: 9, clarity:7.5, in_flow:0;", {"warmth": 9, "clarity": 7.5, "in_flow": 0}),
        ("- *warmth:9/10*", {"warmth": 9}),
        ("Emotions: warmth:9 | grief/loss:3", {"warmth": 9, "grief/loss": 3}),
        ("warmth:3 warmth:9 Warmth:4", {"warmth": 9}),
        ("warmth:11", {}),
        ("at 9:30", None),
        ("warmth:9 and so on", None),
        ("he said: no", None),
        ("", None),
    ],
)
def test_tag_lines(line: str, tags: dict[str, float] | None) -> None:
    assert line_tags(line) == tags


def test_tags_are_taken_off_the_end_only() -> None:
    text, tags = split_tags("joy:5\nA day.\n\nwarmth:9 clarity:8\n\ngrief:2\n")
    assert text == "joy:5\nA day."
    assert tags == {"warmth": 9, "clarity": 8, "grief": 2}


lines = st.lists(st.sampled_from(["a day", "warmth:9", "x:3, y:4.5", "", "  ", "- z:11", "10:30", "`q:1`"]), max_size=8)


@given(st.text(max_size=60) | lines.map("\n".join))
def test_taking_tags_off_twice_is_taking_them_off_once(text: str) -> None:
    once, tags = split_tags(text)
    assert split_tags(once) == (once, {})
    assert text.startswith(once)
    assert all(name == name.lower() and 0 <= score <= 10 for name, score in tags.items())


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ('{"id":"x","context":"c","continuation":"hush"}', "an id that was there"),
        ('{"id":1,"id":2}', "stands there twice"),
    ],
)
def test_what_is_said_twice_is_refused(second: str, says: str) -> None:
    text = '{"id":"x","context":"a","continuation":"b"}\n' + second
    with pytest.raises(InputError, match=says) as caught:
        read_examples(Node("n", examples=text))
    assert "line 2" in str(caught.value)
    assert "hush" not in str(caught.value)
