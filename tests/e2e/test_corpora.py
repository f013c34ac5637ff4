"""Corpora end to end: their cards in the product, what they refuse, and whose words are told to nobody."""

from __future__ import annotations

import json

import pytest

from tests.harness import Space


def test_the_cards_are_summed_in_the_account_without_a_word(built: Space) -> None:
    text = (built.product / "persona.json").read_text()
    assert "weighs" not in text
    target = next(one for one in json.loads(text)["targets"] if one["name"] == "listen")
    card = target["corpus"]
    assert (card["train"] + card["heldout"], card["duplicates"], card["near"]) == (18, 0, 0)
    assert card["tokens"]["reply"] > 0
    assert "nodes" not in card
    shown = built.run("show").out
    assert "trained  held out" in shown
    assert "listen" in shown
    again = built.build("--set", "task.listen.alpha=0.5")
    assert again.summary["build"] != json.loads(text)["build"]
    assert json.loads((built.product / "persona.json").read_text())["targets"][1]["corpus"] == card


FRIEND = """
[task.friend]
chat = "exports/crew.txt"
speaker = "Ann Lee"
recipe = "quick"
half_life_days = 400
[link]"""
BLOBS = ("vaskuldi", "norhagen", "Ann Lee", "Roy", "crew")  # what was said, by whom, and what the file is called


def with_chat(space: Space) -> None:
    (space.root / "exports").mkdir()
    lines = []
    for day in range(40):
        thing = ("boat", "lamp", "rope", "keel", "mist")[day % 5]
        date = f"{day % 28 + 1:02}.{day // 28 + 1:02}.21"
        lines.append(f"{date}, 10:00 - Bob Roy: norhagen {day * 7} and the {thing}? call 0151 2345{day:03}")
        lines.append(f"{date}, 10:05 - Ann Lee: vaskuldi {day * 11} says the {thing} can wait")
    space.write("exports/crew.txt", "\n".join(lines))
    space.edit("Personafile.toml", "\n[link]", FRIEND)


def test_a_chat_becomes_a_behaviour_and_its_words_are_told_to_nobody(space: Space) -> None:
    with_chat(space)
    first = space.build()
    assert {f"task.friend/{step}" for step in ("corpus", "train", "baseline", "measure", "verify")} <= first.ran
    info = json.loads((space.product / "persona.json").read_text())
    friend = next(one for one in info["targets"] if one["name"] == "friend")
    card = friend["corpus"]
    assert friend["chat"] is True
    assert card["chat"]["redacted"]["phones"] == card["chat"]["messages"] / 2 == 40
    assert isinstance(friend["verify"]["gain"], float), "held-out replies are measured without rejected ones"
    row = info["verification"]["behaviours"]["friend"]
    assert row["measure"] == "log p"
    assert abs(row["persona"] - row["base"] - row["gain"]) < 1e-9
    assert row["alone"] == friend["verify"]["alone"]["logp_continuation"]
    assert "friend (log p)" in space.run("show").out
    told = [first.out, first.err, *(space.run(*args).out for args in (["show"], ["--explain"], ["log"], ["graph"]))]
    told += [(space.product / name).read_text() for name in ("persona.json", "README.md", "provenance.json")]
    assert not [word for word in BLOBS for text in told if word in text]

    assert space.build().ran == set()
    text = space.read("exports/crew.txt")
    space.write("exports/crew.txt", text + "\n12.04.21, 10:05 - Ann Lee: vaskuldi says good night\n")
    assert space.run("--explain").out.startswith("tess is stale: chat files ")
    assert "task.friend/corpus" in space.build().ran
    assert not [word for word in BLOBS[:4] if word in space.run("diff", "@~1", "@").out]
    space.edit("Personafile.toml", 'speaker = "Ann Lee"', 'speaker = "Ann Le"')
    refused = space.run("--no-color")
    assert refused.code == 1
    assert "did you mean 'Ann Lee'" in refused.err
    assert "Roy" not in refused.err


def test_either_side_can_be_learned(space: Space) -> None:
    with_chat(space)
    space.edit("Personafile.toml", 'speaker = "Ann Lee"', 'speaker = "Bob Roy"\nturns = 2\nmax_examples = 20')
    space.write("exports/crew.txt", "\n".join(reversed(space.read("exports/crew.txt").splitlines())))
    assert "task.friend/corpus" in space.build("task.friend/corpus").ran


CASES = [
    ('chat = "exports/crew.txt"', 'chat = "exports/none.txt"', 2, ["[task.friend] chat", "no such file"]),
    ('chat = "exports/crew.txt"', 'chat = "../out.txt"', 2, ["[task.friend] chat", "leads out of the project"]),
    ('chat = "exports/crew.txt"', 'chat = "exports/link.txt"', 2, ["[task.friend] chat", "leads out of the project"]),
    ('chat = "exports/crew.txt"', 'chat = "exports"', 2, ["[task.friend] chat", "leads out of the project"]),
    ('chat = "exports/crew.txt"', 'examples = "exports/link.txt"', 2, ["'speaker' is for a task with a chat"]),
    ('chat = "exports/crew.txt"', 'chat = "exports/crew.txt"\nnode = "pattern-listen"', 2, ["exactly one of"]),
    ('speaker = "Ann Lee"\n', "", 2, ["'speaker' is missing"]),
    ("half_life_days = 400", 'redact = ["phone"]', 2, ["did you mean 'phones'?"]),
    ("half_life_days = 400", 'names = { "Bob" = 1 }', 2, ["must give each name another one"]),
    ("half_life_days = 400", "turns = 0", 2, ["at least 1"]),
    ('chat = "exports/crew.txt"', 'chat = "memory/j-00.md"', 2, ["no chat export", "tried: Telegram (JSON)"]),
]


@pytest.mark.parametrize(("old", "new", "code", "says"), CASES, ids=[one[1][:36] or "removed" for one in CASES])
def test_what_a_chat_may_not_be(space: Space, old: str, new: str, code: int, says: list[str]) -> None:
    with_chat(space)
    (space.root.parent / "out.txt").write_text("[Ann Lee] hi\n")
    (space.root / "exports/link.txt").symlink_to(space.root.parent / "out.txt")
    space.edit("Personafile.toml", old, new)
    result = space.run("task.friend/corpus", "--no-color")
    assert result.code in (code, 1), result.err
    for words in says:
        assert words in result.err


def test_examples_of_a_file_are_a_corpus_like_any_other(space: Space) -> None:
    rows = [
        {"id": str(n), "context": f"of the {n} boats?", "continuation": f"which {n}?", "rejected": f"sell {n}"}
        for n in range(40)
    ]
    (space.root / "data").mkdir()
    space.write("data/ask.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    space.edit("Personafile.toml", 'node = "pattern-listen"', 'examples = "data/ask.jsonl"')
    assert "task.listen/verify" in space.build("task.listen").ran
    space.write("data/ask.jsonl", space.read("data/ask.jsonl") + json.dumps({**rows[0], "context": "hush"}))
    refused = space.run("task.listen", "--no-color")
    assert refused.code == 1
    assert "ask.jsonl:41: an id that was there before" in refused.err
    assert "hush" not in refused.err
