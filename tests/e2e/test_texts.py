"""Directions from texts that come with their labels, end to end: what they are built from and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import Space
from tests.unit.test_marked_texts import PAIRS, pairs, story_corpus

STORIES = """
[steer.calm]
stories = "corpora/amygdala"
recipe = "caa"

[steer.asking]
node = "pattern-listen"
recipe = "caa"
reading = "answer"

[steer.late]
positives = "key:j-0*"
negatives = "key:j-1*"
recipe = "caa"

[steer.paired]
emotion = "calm"
pairs = "corpora/pairs.jsonl"
recipe = "caa"

[link]"""


def with_texts(space: Space) -> Path:
    (space.root / "corpora").mkdir()
    pairs(space.root / "corpora/pairs.jsonl", PAIRS)
    space.edit("Personafile.toml", "\n[link]", STORIES)
    old = 'layers = [1, 2]\nconcepts = ["joy", "worry"]'
    new = 'layers = [1, 2]\nstories = "corpora/amygdala"\nconcepts = { top = 5, min_examples = 3, also = ["fear"] }'
    space.edit("Personafile.toml", old, new)
    return story_corpus(space.root / "corpora/amygdala")


def test_directions_of_every_form_reach_the_product(space: Space) -> None:
    folder = with_texts(space)
    first = space.build()
    info = json.loads((space.product / "persona.json").read_text())
    assert info["readout"]["concepts"] == ["fear", "calm"], "picked by hand, then by frequency"
    assert info["readout"]["texts"]["per_concept"]["calm"]["settings"] == 3
    by_name = {one["name"]: one for one in info["steering"]}
    assert by_name["late"]["texts"]["per_concept"]["late"]["positives"] == 10
    assert by_name["asking"]["texts"]["per_concept"]["asking"]["positives"] == 18
    for name in ("calm", "asking", "late", "paired"):
        assert (space.product / "steering" / name / "readout.safetensors").is_file()
    told = [first.out, first.err, space.run("show").out, (space.product / "persona.json").read_text()]
    assert not any(word in text for word in ("kettle", "hurried", "weighs") for text in told)
    assert "without  settings" in told[2]

    assert space.build().ran == set()
    (folder / "README.md").write_text("what is read by people only")
    again = space.build()
    assert not any(id.endswith(("activations", "vectors")) for id in again.ran), "the same texts, the same labels"
    assert again.summary["build"] == first.summary["build"]
    (folder / "stories/calm.txt").write_text("The last bottle was full, and everybody sat down for a while.")
    ran = space.build().ran
    assert {"readout/vectors", "steer.calm/vectors"} <= ran
    assert not any(id.startswith(("steer.asking", "steer.late", "task.")) for id in ran)


CASES = [
    ('stories = "corpora/amygdala"\nrecipe', 'stories = "../s"\nrecipe', ["[steer.calm] stories", "no such"]),
    ('stories = "corpora/amygdala"\nrecipe', 'stories = "corpora/out"\nrecipe', ["leads out of the project"]),
    ('stories = "corpora/amygdala"\nrecipe', 'stories = "corpora/linked"\nrecipe', ["leads out of the project"]),
    ('stories = "corpora/amygdala"\nrecipe', 'stories = "x"\npairs = "y"\nrecipe', ["both 'stories' and 'pairs'"]),
    ('stories = "corpora/amygdala"\nrecipe', 'stories = "x"\nnode = "y"\nrecipe', ["says which texts already"]),
    ('negatives = "key:j-1*"', 'negatives = "key:j-*"', ["10 nodes are on both sides"]),
    ('negatives = "key:j-1*"\n', "", ["needs both 'positives' and 'negatives'"]),
    ('node = "pattern-listen"\nrecipe = "caa"', 'recipe = "caa"', ["[steer.asking]", "needs one of emotion, node"]),
    ('node = "pattern-listen"\nrecipe = "caa"', 'node = "j-00"\nrecipe = "caa"', ["no text"]),
    ('emotion = "calm"\npairs', 'emotion = "clam"\npairs', ["did you mean 'calm'"]),
]


@pytest.mark.parametrize(("old", "new", "says"), CASES, ids=[one[1][:36] or "removed" for one in CASES])
def test_what_texts_may_not_be(space: Space, old: str, new: str, says: list[str]) -> None:
    with_texts(space)
    story_corpus(space.root.parent / "elsewhere")
    (space.root / "corpora/out").symlink_to(space.root.parent / "elsewhere")
    story_corpus(space.root / "corpora/linked")
    (space.root / "corpora/linked/stories/joy.txt").symlink_to(space.root.parent / "elsewhere/stories/calm.txt")
    space.edit("Personafile.toml", old, new)
    result = space.run("-k", "--no-color", *(f"steer.{name}/{step}" for name in ("calm", "asking", "late", "paired")
                                             for step in ("texts", "labels")))  # fmt: skip
    assert result.code in (1, 2), result.err
    for words in says:
        assert words in result.err
