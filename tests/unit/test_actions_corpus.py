"""The corpus, texts and labels rules: splits, labels, cards, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.actions import corpus, labels, tagged, texts
from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, AmyError, InputError
from amybuild.memory.example import make_example
from amybuild.memory.jsonl import write_jsonl
from amybuild.memory.node import Node

Rows = list[dict[str, Any]]


def act(run: Callable[[ActionContext], None], at: Path, nodes: Iterable[Node], **params: Any) -> dict[str, Any]:
    (at / "in").mkdir(parents=True)
    (at / "out").mkdir()
    (at / "in" / "nodes.jsonl").write_bytes(write_jsonl(nodes))
    run(ActionContext("task.x/corpus", "00", params, {"nodes": at / "in"}, at / "out"))
    return dict(json.loads((at / "out" / "card.json").read_text()))


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def dialogues(topics: Iterable[Any], rejected: bool = True) -> str:
    parts = []
    for topic in topics:
        no = f"\nNot: Do {topic} now." if rejected else ""
        parts.append(f"```dialogue\nUser: About {topic}.\nAssistant: Why {topic}?{no}\n```\n")
    return "".join(parts)


def test_a_corpus_is_written(tmp_path: Path) -> None:
    text = dialogues(range(30)) + "```dialogue counter\nUser: Grit?\nAssistant: 240.\nNot: Why?\nNot: Hm?\n```\n"
    card = act(corpus.run, tmp_path, [Node("p", content=text + dialogues([3]))])
    train, held = rows(tmp_path / "out" / "train.jsonl"), rows(tmp_path / "out" / "heldout.jsonl")
    assert len(train) + len(held) == 31 == card["train"] + card["heldout"]
    assert (card["counter"], card["with_rejected"], card["duplicates"], card["nodes"]) == (1, 31, 1, {"p": 31})
    assert card["characters"]["continuation"]["min"] == 4
    for side in (train, held):
        assert side == sorted(side, key=lambda row: row["id"])
    counter = next(row for row in train + held if row["counter"])
    assert counter.pop("id")
    assert counter == {
        "node": "p",
        "messages": [{"role": "user", "content": "Grit?"}],
        "continuation": "240.",
        "rejected": "Why?",
        "also_rejected": ["Hm?"],
        "counter": True,
    }
    assert "Grit" not in json.dumps(card)


def test_prose_is_no_part_of_the_corpus(tmp_path: Path) -> None:
    text = dialogues(range(30))
    act(corpus.run, tmp_path / "a", [Node("p", content="prose\n" + text)])
    act(corpus.run, tmp_path / "b", [Node("p", content="other\n\nprose\n" + text + "more", weight=0.5)])
    for name in ("train.jsonl", "heldout.jsonl", "card.json"):
        assert (tmp_path / "a" / "out" / name).read_bytes() == (tmp_path / "b" / "out" / name).read_bytes()


def test_sections_and_keys_choose(tmp_path: Path) -> None:
    node = Node("core", content="## voice\n" + dialogues(range(30)) + "## rest\n" + dialogues(range(50, 99)))
    cards = [
        act(corpus.run, tmp_path / "a", [node], keys=["core#voice"]),
        act(corpus.run, tmp_path / "b", [node], sections={"core": "voice"}),
    ]
    assert [card["nodes"] for card in cards] == [{"core": 30}, {"core": 30}]
    with pytest.raises(InputError, match="did you mean 'core'"):
        act(corpus.run, tmp_path / "c", [node], keys=["coer"])


said = st.text("abc ", min_size=1, max_size=6).map(lambda text: "x" + text)


@given(st.lists(st.tuples(said, said), min_size=1, max_size=12), st.tuples(said, said), st.floats(0.05, 0.95))
def test_an_added_example_moves_no_other(pairs: list[tuple[str, str]], more: tuple[str, str], share: float) -> None:
    def sides(some: list[tuple[str, str]]) -> dict[str, bool]:
        found = [make_example("p", [("user", a)], b) for a, b in some]
        return {one.id: corpus.is_heldout(one.messages, share) for one in found}

    before, after = sides(pairs), sides([*pairs, more])
    assert {name: after[name] for name in before} == before


@given(said, said, st.floats(0.05, 0.95))
def test_the_side_depends_on_the_context_alone(context: str, other: str, share: float) -> None:
    side = corpus.is_heldout([("user", context)], share)
    assert corpus.is_heldout([("user", f"  {context.upper()}\n")], share) == side
    assert not (side and not corpus.is_heldout([("user", context)], min(share * 2, 0.99)))


def test_the_card_warns(tmp_path: Path) -> None:
    text = dialogues(range(30)).replace("Why", "Why, when and wherefore this")
    warnings = act(corpus.run, tmp_path, [Node("p", content=text)])["warnings"]
    assert any("would measure length" in one for one in warnings)
    assert any("no counter cases" in one for one in warnings)


@pytest.mark.parametrize(
    ("text", "params", "says"),
    [
        ("prose", {}, "p: no examples\n.*dialogue"),
        (dialogues(range(5)), {}, "p: 5 different examples.*\n.*write 3 more"),
        (dialogues(range(30), rejected=False), {}, "p: 0 held-out examples with a rejected"),
        (dialogues(range(30)), {"heldout": 0.999}, "examples to train on"),
        (dialogues(range(30)), {"heldout": 1.5}, "heldout"),
        (dialogues(range(30)), {"heldout": True}, "heldout"),
        (dialogues(range(30)), {"min_examples": 0}, "min_examples"),
        (dialogues(range(30)), {"keys": ["p"], "sections": {"p": None}}, "both"),
    ],
)
def test_a_poor_corpus_is_refused(tmp_path: Path, text: str, params: dict[str, Any], says: str) -> None:
    with pytest.raises(AmyError, match=says):
        act(corpus.run, tmp_path, [Node("p", content=text)], **params)


def journal(number: int, tags: str, text: str = "We sanded the hull until the light went and said little.") -> Node:
    return Node(f"j-{number:02}", "episodic", f"# Day {number}\n\n{text} Entry {number}.\n\n{tags}\n")


SOME = [
    *(journal(number, "warmth:9 clarity:3") for number in range(5)),
    *(journal(number, "Clarity:8, warmth:0") for number in range(5, 9)),
    journal(9, "grief:9", "There was some warmth in the room, she said, and then it was gone again."),
    journal(10, "grief:9 warmth:4"),
    Node("people/tomas", content="He works nights and builds a boat at the yard, for years now."),
    Node("j-12", "episodic", "Short.\ngrief:10"),
]


NODE_OF = {one.id: one.node for one in tagged.collect(SOME, 40)[0]}


def marks(at: Path, concept: str) -> dict[str, int]:
    found = rows(at / "out" / "labels.jsonl")
    return {NODE_OF[row["id"]]: row["labels"][concept] for row in found if concept in row["labels"]}


def test_texts_are_labelled(tmp_path: Path) -> None:
    card = act(labels.run, tmp_path, SOME, concepts=["Warmth", "clarity"])
    assert card["concepts"] == ["warmth", "clarity"]
    assert (card["texts"], card["short"]) == (11, 1)
    # 9 names warmth, 10 has a little of it, tomas has no tags at all
    assert marks(tmp_path, "warmth") == {f"j-{n:02}": 1 if n < 5 else -1 for n in range(9)}
    assert marks(tmp_path, "clarity") == {f"j-{n:02}": 1 if n < 9 else -1 for n in range(5, 11)}
    about = card["per_concept"]["warmth"]
    assert (about["positives"], about["negatives"], about["settings"]) == (5, 4, None)
    assert about["characters"]["max"] == 71


def test_texts_are_the_same_whatever_is_asked_of_them(tmp_path: Path) -> None:
    card = act(texts.run, tmp_path, SOME)
    assert (card["texts"], card["short"]) == (12, 1)
    found = rows(tmp_path / "out" / "texts.jsonl")
    assert all(set(row) == {"id", "node", "text"} for row in found)
    first = next(row for row in found if row["node"] == "j-00")
    assert first["text"] == "Day 0 We sanded the hull until the light went and said little. Entry 0."


def test_thresholds(tmp_path: Path) -> None:
    act(labels.run, tmp_path / "a", SOME, concepts=["warmth"], min_score=3, max_negative_mentions=1)
    assert marks(tmp_path / "a", "warmth")["j-10"] == 1
    assert marks(tmp_path / "a", "warmth")["j-09"] == -1
    card = act(labels.run, tmp_path / "b", SOME, concepts=["warmth"], max_per_concept=2, untagged_negatives=True)
    assert (card["per_concept"]["warmth"]["positives"], card["per_concept"]["warmth"]["negatives"]) == (2, 2)
    act(labels.run, tmp_path / "c", SOME, concepts=["warmth"], untagged_negatives=True)
    assert marks(tmp_path / "c", "warmth")["people/tomas"] == -1


def test_the_most_frequent_tags_and_the_picked_ones(tmp_path: Path) -> None:
    assert act(labels.run, tmp_path / "a", SOME, top=5, min_examples=4)["concepts"] == ["warmth", "clarity"]
    card = act(labels.run, tmp_path / "b", SOME, top=1, min_examples=4, concepts=["clarity"])
    assert card["concepts"] == ["clarity", "warmth"]


def test_what_a_model_may_read() -> None:
    content = (
        "+++\nweight = 1\n+++\n# Title\n<!-- note -->\nOne  *two*\n***\njoy:3\n"
        "```dialogue\nUser: a\nAssistant: b\n```\n```\ncode\n```\n## Sub\n\nwarmth:9\ngrief:2\n"
    )
    assert tagged.plain(content) == ("Title One *two* code Sub", {"joy": 3, "warmth": 9, "grief": 2})


@given(st.lists(st.sampled_from(["a day", "warmth:9", "# head", "x:3, y:4.5", "```", "+++", ""]), max_size=8))
def test_no_tag_line_reaches_a_model(parts: list[str]) -> None:
    text, _ = tagged.plain("\n".join(parts))
    assert "warmth" not in text
    assert "x:3" not in text


def test_equal_texts_are_one() -> None:
    body = "The same words in two places, and long enough to count here.\n"
    found, short = tagged.collect([Node("b", content=body + "joy:9"), Node("a", content=body + "joy:2 awe:8")], 40)
    assert short == 0
    assert [(one.node, dict(one.tags)) for one in found] == [("a", {"joy": 9, "awe": 8})]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"concepts": ["warmht"]}, "concept 'warmht': 0 texts.*\n.*did you mean 'warmth'"),
        (
            {"concepts": ["grief"]},
            r"concept 'grief': 2 texts at 8 or more, fewer than 3 \(2 texts carry the tag, 1 nodes were too short\)",
        ),
        ({"top": 3, "min_examples": 50}, "no emotion has 50 texts"),
        ({}, "neither"),
        ({"concepts": "warmth"}, "not a list"),
        ({"concepts": ["warmth"], "min_chars": -1}, "min_chars"),
        ({"concepts": ["warmth"], "top": 0}, "top"),
        ({"concepts": ["warmth"], "max_per_concept": 2.5}, "max_per_concept"),
    ],
)
def test_poor_texts_are_refused(tmp_path: Path, params: dict[str, Any], says: str) -> None:
    with pytest.raises(AmyError, match=says):
        act(labels.run, tmp_path, SOME, **params)


def test_a_concept_without_negatives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="concept 'warmth': no negative texts"):
        act(labels.run, tmp_path, SOME[:5], concepts=["warmth"])
