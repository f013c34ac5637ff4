"""Texts that come with their labels: story corpora, pairs, dialogues, two queries; and the traps their card names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.actions import labels, texts
from amybuild.actions.context import ActionContext
from amybuild.actions.labels_card import traps
from amybuild.actions.marked import Marked, unique
from amybuild.errors import AmyError
from amybuild.memory.jsonl import write_jsonl
from amybuild.memory.node import Link, Node
from amybuild.memory.stories import read_stories

Rows = list[dict[str, Any]]
Rule = Callable[[ActionContext], None]
SCENES = {"kitchen": "The kettle began to sing", "quay": "The boat came in late", "lab": "The last bottle was full"}
CALM, FEAR = (
    "and nobody hurried to do anything about it at all.",
    "and every step on the stairs made them all hold still.",
)


def story_corpus(at: Path) -> Path:
    """Two concepts in two scenarios, a story each, a direct text; a baseline and a negative."""
    files = {f"paired/{scene}/calm.txt": f"{SCENES[scene]},\n{CALM}\n" for scene in ("kitchen", "quay")}
    files |= {f"paired/{scene}/fear.txt": f"{SCENES[scene]}, {FEAR}" for scene in ("kitchen", "quay")}
    files["paired/quay/baseline.txt"] = f"{SCENES['quay']}, as it does on most days of the week."
    files |= {"stories/calm.txt": f"{SCENES['lab']}, {CALM}", "stories/fear.txt": f"{SCENES['lab']}, {FEAR}"}
    files["direct/calm.txt"] = "Still water, a slow breath out.\n\nA room in which there is time.\n"
    files["direct/_baseline.txt"] = "A list of things to buy in town.\n \nA page of the timetable of buses.\n"
    files |= {"manifest.json": "{}", "README.md": "hush", "stories/notes.md": "hush"}
    for name, text in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text)
    return at


def act(
    run: Rule, at: Path, nodes: Iterable[Node] = (), source: Path | None = None, **params: Any
) -> tuple[dict[str, Any], Rows]:
    (at / "in").mkdir(parents=True)
    (at / "out").mkdir()
    (at / "in/nodes.jsonl").write_bytes(write_jsonl(nodes))
    inputs = {"source": source} if source else {"nodes": at / "in"}
    run(ActionContext("steer.x/labels", "00", params, inputs, at / "out"))
    found = next(iter((at / "out").glob("*.jsonl"))).read_text().splitlines()
    return dict(json.loads((at / "out/card.json").read_text())), [json.loads(line) for line in found]


def test_a_story_corpus_is_read(tmp_path: Path) -> None:
    found = read_stories(story_corpus(tmp_path), "stories")
    assert [(one.place, one.concept, one.setting) for one in found] == [
        ("stories/calm.txt", "calm", "stories/calm.txt"),
        ("stories/fear.txt", "fear", "stories/fear.txt"),
        ("paired/kitchen/calm.txt", "calm", "kitchen"),
        ("paired/kitchen/fear.txt", "fear", "kitchen"),
        ("paired/quay/baseline.txt", None, "quay"),
        ("paired/quay/calm.txt", "calm", "quay"),
        ("paired/quay/fear.txt", "fear", "quay"),
        *(("direct/_baseline.txt", None, None),) * 2,
        *(("direct/calm.txt", "calm", None),) * 2,
    ]
    assert found[2].text == f"{SCENES['kitchen']}, {CALM}"


def test_stories_are_labelled(tmp_path: Path) -> None:
    source = story_corpus(tmp_path / "s")
    params = {"form": "stories", "min_chars": 10}
    card, rows = act(labels.run, tmp_path / "a", source=source, concepts=["calm"], **params)
    marks = [row["labels"]["calm"] for row in rows]
    assert (marks.count(1), marks.count(-1)) == (5, 6), "its own, and all others with the baselines"
    assert card["per_concept"]["calm"]["settings"] == 3
    card, rows = act(labels.run, tmp_path / "b", source=source, top=9, min_examples=3, **params)
    assert card["concepts"] == ["calm", "fear"]
    shown, found = act(texts.run, tmp_path / "c", source=source, **params)
    assert shown["texts"] == 11 >= len(rows)
    assert all(row.keys() == {"id", "node", "text"} for row in found)
    assert {row["id"] for row in rows} <= {row["id"] for row in found}
    assert "kettle" not in json.dumps(card)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("stories/calm.txt", b"\xff\xfe", "stories/calm.txt:1: not UTF-8"),
        ("stories/dull.txt", b" \n\n ", "stories/dull.txt: an empty file"),
        ("paired/quay/_.txt", b"x", "not the name of a concept"),
    ],
)
def test_a_story_that_cannot_be(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    source = story_corpus(tmp_path / "s")
    (source / name).write_bytes(data)
    with pytest.raises(AmyError, match=says):
        act(labels.run, tmp_path / "a", source=source, form="stories", concepts=["calm"])


def test_a_folder_without_stories_names_the_layout(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(AmyError, match=re.escape("paired/<scenario>/<concept>.txt")):
            read_stories(path, "stories")


def pairs(at: Path, rows: Iterable[Any]) -> Path:
    at.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return at


PAIRS = [
    {
        "emotion": "Calm",
        "polarity": "positive" if n < 4 else "negative",
        "text": f"A day at the quay, number {n}, it was.",
    }
    for n in range(9)
]


def test_pairs_are_labelled(tmp_path: Path) -> None:
    source = pairs(
        tmp_path / "p.jsonl", [*PAIRS, PAIRS[0], {"emotion": "fear", "polarity": 1, "text": PAIRS[8]["text"]}]
    )
    params = {"form": "pairs", "concepts": ["calm"], "min_chars": 10}
    card, rows = act(labels.run, tmp_path / "a", source=source, **params)
    assert (card["per_concept"]["calm"]["positives"], card["per_concept"]["calm"]["negatives"]) == (4, 5)
    assert len(rows) == 9
    with pytest.raises(AmyError, match="concept 'fear': 1 positive texts"):
        act(labels.run, tmp_path / "b", source=source, **params | {"concepts": ["fear"]})
    with pytest.raises(AmyError, match="did you mean 'calm'"):
        act(labels.run, tmp_path / "c", source=source, **params | {"concepts": ["clam"]})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"emotion": "calm", "polarity": "up", "text": "hush"}', "p.jsonl:10: a value of another type"),
        ('{"emotion": "calm", "text": "hush"}', "p.jsonl:10: not all of"),
        ('{"emotion": "calm", "polarity": 1, "text": "hush", "txet": 1}', "did you mean 'text'"),
        ("hush", "p.jsonl:10: not JSON"),
        (json.dumps({**PAIRS[0], "polarity": "negative", "emotion": "calm"}), "p.jsonl:10: this text is both"),
        ('{"emotion": "ca\\nlm", "polarity": 1, "text": "hush"}', "not the name of an emotion"),
        ('{"emotion": "calm", "polarity": 1, "text": "hush \\ud800"}', "surrogate"),
    ],
)
def test_a_pair_that_cannot_be_is_refused_without_a_word_of_it(tmp_path: Path, line: str, says: str) -> None:
    source = pairs(tmp_path / "p.jsonl", [*PAIRS, line])
    with pytest.raises(AmyError, match=says) as caught:
        act(labels.run, tmp_path / "a", source=source, form="pairs", concepts=["calm"])
    assert "hush" not in str(caught.value)


def test_dialogues_are_wanted_against_unwanted_replies(tmp_path: Path) -> None:
    blocks = [f"```dialogue\nUser: The {n}?\nAssistant: What of {n}?\nNot: Sell {n}.\n```\n" for n in range(4)]
    blocks.append("```dialogue counter\nUser: Grit?\nAssistant: 240.\nNot: Why grit?\n```\n")
    node = Node("p", content="".join(blocks))
    params = {"form": "dialogues", "min_chars": 5}
    _, rows = act(labels.run, tmp_path / "a", [node], concepts=["asking"], concept="asking", **params)
    _, found = act(texts.run, tmp_path / "b", [node], **params)
    by_text = {row["text"]: row["id"] for row in found}
    marks = {row["id"]: row["labels"]["asking"] for row in rows}
    assert marks[by_text["User: The 0?\n\nAssistant: What of 0?"]] == 1
    assert marks[by_text["User: The 0?\n\nAssistant: Sell 0."]] == -1
    assert marks[by_text["User: Grit?\n\nAssistant: 240."]] == -1, "in a counter case the behaviour should not show"
    assert (len(rows), sum(marks.values())) == (10, 0)
    assert {row["text"][row["answer"] :] for row in found} >= {"What of 0?", "Sell 0.", "240."}


def test_two_queries_are_two_sides(tmp_path: Path) -> None:
    nodes = [Node(f"n-{n}", content=f"# Day\n\nWe sat by the water, {n}, for long.\n\njoy:9\n") for n in range(8)]
    params = {"form": "sides", "concept": "slow", "concepts": ["slow"], "negatives": ["n-0", "n-1"], "min_chars": 5}
    card, rows = act(labels.run, tmp_path, nodes, **params)
    assert (card["per_concept"]["slow"]["positives"], card["per_concept"]["slow"]["negatives"]) == (6, 2)
    assert len(rows) == 8


marks = st.dictionaries(st.sampled_from("xyz"), st.sampled_from([1, -1]))
found = st.tuples(st.just("n"), st.sampled_from("abcd"), marks, st.just(frozenset[str]()))


@given(st.lists(found, max_size=8))
def test_equal_texts_are_one_that_is_all_they_are(some: list[tuple[str, str, dict[str, int], frozenset[str]]]) -> None:
    merged, short = unique(some, 1)
    assert short == 0
    assert {one.text for one in merged} == {text for _, text, _, _ in some}
    for one in merged:
        mine = [marks for _, text, marks, _ in some if text == one.text]
        assert one.marks == {c: max(m[c] for m in mine if c in m) for m in mine for c in m}


# the card


def side(*said: str, settings: str = "") -> list[Marked]:
    return [Marked(str(n), "n", text, {}, frozenset(settings.split())) for n, text in enumerate(said)]


PLAIN = side(*(f"The {word} stood by the quay until bell {n}" for n, word in enumerate("abcdefgh")))


def test_known_traps_are_named() -> None:
    assert traps(PLAIN, PLAIN) == []
    assert traps(PLAIN[:2], PLAIN)[0] == "only 2 positives"
    assert "only 1 negatives" in traps(PLAIN, PLAIN[:1])
    couch = [Marked(one.id, "n", one.text, {}, frozenset({"couch", one.id})) for one in PLAIN]
    there = [Marked(one.id, "n", one.text, {}, frozenset({one.id})) for one in PLAIN]
    assert "share one setting" in traps(couch, there)[0]
    assert traps(couch, couch) == [], "a setting that both sides have tells them not apart"
    assert traps(there, couch) == []
    ended = side(*(f"The {word} stood by the quay, and so on <|im_end|>\n" for word in "abcdefgh"))
    assert any("end in the same word" in said for said in traps(ended, PLAIN))
    first = side(*(f"I saw that my {word} stood by the quay, bell {n}" for n, word in enumerate("abcdefgh")))
    assert "in the first person: a format island" in traps(first, PLAIN)[0]
    assert "0% of the positives and 100% of the negatives are in the first person" in traps(PLAIN, first)[0]
    quoted = side(*(f'"I saw my {word}," said the man by the quay, bell {n}' for n, word in enumerate("abcdefgh")))
    assert traps(quoted, PLAIN) == [], "who speaks in a story says I"


def test_links_are_the_settings_of_memories(tmp_path: Path) -> None:
    def node(n: int, tag: str, *links: str) -> Node:
        text = f"We sat by the water, number {n} of those days, and it was long.\n\n{tag}\n"
        return Node(f"n-{n}", content=text, links=tuple(Link(one) for one in links))

    nodes = [
        *(node(n, "joy:9", "couch", f"place-{n}") for n in range(8)),
        *(node(n, "fear:9", "quay") for n in range(8, 16)),
    ]
    card, _ = act(labels.run, tmp_path, nodes, concepts=["joy", "fear"])
    assert card["per_concept"]["joy"]["settings"] == 9
    assert [said for said in card["warnings"] if "setting" in said] == [
        "joy: all 8 positives share one setting: the direction may be that of the setting",
        "fear: all 8 positives share one setting: the direction may be that of the setting",
    ]
    assert "couch" not in json.dumps(card)


def test_marks_of_a_chat_template_in_a_text_are_told_of(tmp_path: Path) -> None:
    def card(mark: str) -> list[str]:
        texts = [f"We sat by the water, number {n} of those days, and it was long.{mark}" for n in range(16)]
        nodes = [Node(f"n-{n}", content=f"{text}\n\n{('joy', 'fear')[n % 2]}:9\n") for n, text in enumerate(texts)]
        found, _ = act(labels.run, tmp_path / str(len(mark)), nodes, concepts=["joy"])
        return [said for said in found["warnings"] if "template" in said]

    assert card("") == card(" <- 3 | 4 ->") == []
    for mark in ("<|im_end|>", "[/INST] ", "<end_of_turn>"):
        assert card(mark)[0].startswith("16 texts hold marks of a chat template")
