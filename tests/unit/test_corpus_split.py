"""The two sides of a corpus, by their laws: who stands where, what is too near, and which node changes which corpus."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.actions.near import NEAR, _word, near, shingles, words
from amybuild.actions.split import check_apart, is_heldout, split
from amybuild.errors import ActionError
from amybuild.graph.analyze import analyze
from amybuild.graph.graph import ActionGraph
from amybuild.memory.example import Example, make_example
from amybuild.memory.graph import build_graph
from amybuild.memory.node import Node
from amybuild.personafile.load import load
from tests.unit.test_personafile import write_project

word = st.sampled_from(["tide", "boat", "lamp", "rope", "salt", "keel", "oar", "mist"])
text = st.lists(word, min_size=1, max_size=9).map(" ".join)
examples = st.lists(st.builds(lambda a, b: make_example("n", [("user", a)], b), text, text), max_size=12)


def sided(found: list[Example], share: float = 0.4) -> list[tuple[Example, bool]]:
    return [(one, is_heldout(one.messages, share)) for one in found]


def jaccard(a: str, b: str) -> float:
    one, two = shingles(a), shingles(b)
    return len(one & two) / len(one | two) if one | two else 0.0


@given(st.lists(text, max_size=8), st.lists(text, max_size=8), st.sampled_from([0.3, 0.5, NEAR, 1.0]))
def test_near_finds_exactly_what_comparing_everything_finds(some: list[str], others: list[str], least: float) -> None:
    assert near(some, others, least) == [any(jaccard(a, b) >= least for b in others) for a in some]


def test_near_looks_through_case_punctuation_and_one_word_in_ten() -> None:
    long = "we sat on the quay until the lamp went out and said very little about any of it that evening"
    assert near([long.upper().replace(" ", ", ") + "!"], [long]) == [True]
    assert near([long.replace("lamp", "light")], [long]) == [True]
    assert near([long.replace("lamp", "light").replace("quay", "pier").replace("little", "much")], [long]) == [False]
    assert near(["我今天想去海边看船"], ["我今天想去海边看船。"]) == [True], "words without spaces between them"
    assert near(["", "?!"], ["", "?!"]) == [False, False]


@given(examples, examples)
def test_what_is_added_moves_nobody_to_the_other_side(before: list[Example], more: list[Example]) -> None:
    one, two = split(sided(before)), split(sided([*before, *more]))
    assert set(one.train) <= set(two.train)
    assert not {a.id for a in one.held} & {a.id for a in two.train}
    lost = {a.id for a in one.held} - {a.id for a in two.held}
    assert not lost or two.near, "what is held out no longer is near something that is trained on"


@given(examples)
def test_the_sides_are_apart_and_nothing_is_lost(found: list[Example]) -> None:
    made = split(sided(found))
    assert len(made.train) + len(made.held) + made.duplicates + made.near == len(found)
    for held in made.held:
        said = f"{held.messages[-1][1]}\n{held.continuation}"
        assert all(jaccard(said, f"{one.messages[-1][1]}\n{one.continuation}") < NEAR for one in made.train)
    again = split(sided(list(reversed(found))))
    assert (again.train, again.held) == (made.train, made.held), "the order they are written in says nothing"


def test_a_rejected_reply_is_trained_on_too() -> None:
    told = "take the early train and be there before the others have had their breakfast"
    trained = make_example("n", [("user", "when?")], "why the hurry?", [told])
    held = make_example("n", [("user", "how soon?")], "what waits there?", [told.upper()])
    assert split([(trained, False), (held, True)]).held == ()
    short = make_example("n", [("user", "how soon, then, and with whom?")], "why the hurry?")
    assert split([(trained, False), (short, True)]).held == (short,), "short replies may come again elsewhere"


def test_a_leak_is_an_error() -> None:
    one = make_example("n", [("user", "when?")], "why the hurry?")
    with pytest.raises(ActionError, match="1 held-out examples are also trained on") as caught:
        check_apart([one], [make_example("m", [("user", "WHEN")], "Why, the hurry")])
    assert "hurry" not in str(caught.value)


@given(st.text(st.characters(max_codepoint=127)))
def test_the_words_of_ascii_are_those_of_any_text(text: str) -> None:
    assert words(text) == _word().findall(text.casefold())


TASKS = {"all": "*", "a": "a-*", "b": "b-*", "first": "?-1"}
KEPT = {"a-0": "x", "b-0": "x", "c-1": "x"}  # so that no query is empty, before or after
keys = st.sampled_from([f"{letter}-{number}" for letter in "abc" for number in range(3)])


def corpora(root: Path, nodes: dict[str, str]) -> ActionGraph:
    body = "".join(f'[task.{name}]\nquery = "key:{glob}"\nrecipe = "quick"\n' for name, glob in TASKS.items())
    head = '[persona]\nname = "x"\nbase = "tiny"\n[base.tiny]\npath = "models/tiny"\n'
    persona = load(write_project(root, head + body))
    return analyze(persona, build_graph(Node(key, content=text) for key, text in nodes.items()), lambda path: "0")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.dictionaries(keys, st.sampled_from("xy"), min_size=1), keys, st.sampled_from(["x", "y", "z", None]))
def test_one_node_changes_exactly_the_corpora_that_select_it(
    tmp_path: Path, some: dict[str, str], key: str, content: str | None
) -> None:
    whole = {**KEPT, **some}
    edited = {**whole, key: content} if content else {k: v for k, v in whole.items() if k != key or k in KEPT}
    one, two = corpora(tmp_path, whole), corpora(tmp_path, edited)
    changed = {name for name in TASKS if one.actions[f"task.{name}/corpus"] != two.actions[f"task.{name}/corpus"]}
    touched = whole.get(key) != edited.get(key)
    assert changed == {name for name, glob in TASKS.items() if touched and fnmatchcase(key, glob)}
