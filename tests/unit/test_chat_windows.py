"""Conversations, windows, redaction, and the chat rule: their laws, and nobody's words where they do not belong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.actions import chat
from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError
from amybuild.memory.chat.formats import read_chat
from amybuild.memory.chat.message import Message
from amybuild.memory.chat.redact import KINDS, Redactor, says_nothing
from amybuild.memory.chat.windows import Windows, conversations, windows

HOUR = 3600.0
HOW = Windows("Ann", turns=3, gap=6 * HOUR)


def talk(*said: tuple[str, str], start: float = 0.0, step: float = 60.0) -> list[Message]:
    return [Message(who, what, start + place * step) for place, (who, what) in enumerate(said)]


def shown(messages: Sequence[Message], how: Windows = HOW) -> list[tuple[list[tuple[str, str]], str]]:
    return [(list(one.example.messages), one.example.continuation) for one in windows(messages, how)[0]]


def test_turns_are_joined_and_windows_begin_with_somebody_else() -> None:
    day = talk(("Ann", "up?"), ("Bob", "no"), ("Bob", "yes"), ("Ann", "good"), ("Ann", "boat?"), ("Bob", "out"))
    assert shown([*day, *talk(("Ann", "then we walk"), start=400)]) == [
        ([("user", "no\nyes")], "good\nboat?"),
        ([("user", "no\nyes"), ("assistant", "good\nboat?"), ("user", "out")], "then we walk"),
    ]
    assert shown(day, replace(HOW, speaker="Bob")) == [
        ([("user", "up?")], "no\nyes"),
        ([("user", "up?"), ("assistant", "no\nyes"), ("user", "good\nboat?")], "out"),
    ]


def test_a_silence_a_mark_and_another_room_end_a_conversation() -> None:
    first, late = talk(("Bob", "one")), talk(("Ann", "two"), start=6 * HOUR)
    assert shown([*first, *late]) == []
    assert shown([*first, replace(late[0], time=6 * HOUR - 1)]) != []
    assert shown([*first, replace(late[0], time=1, parted=True)]) == []
    assert shown([*first, replace(late[0], time=1, room="b")]) == []


def test_where_several_people_speak_each_line_says_who() -> None:
    day = talk(("Bob", "here"), ("Cem Kaya", "hi Bob"), ("Ann", "hello, Cem"))
    assert shown(day) == [([("user", "Bob: here\nCem Kaya: hi Bob")], "hello, Cem")]
    how = replace(HOW, names={"Bob": "B."}, redact=("names",))
    assert shown(day, how) == [([("user", "B.: here\nPerson 2: hi B.")], "hello, [name]")]


def test_who_is_only_a_number_is_no_number_in_the_corpus() -> None:
    day = talk(("Bob", "here"), ("+49 151 2345678", "hi"), ("Ann", "hello"))
    assert shown(day)[0][0] == [("user", "Bob: here\n+49 151 2345678: hi")]
    assert shown(day, replace(HOW, redact=("phones",)))[0][0] == [("user", "Bob: here\nPerson 2: hi")]


relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other programs share the cores
people, hours = st.sampled_from(["Ann", "Bob", "Cem"]), st.integers(0, 90).map(lambda hour: hour * HOUR)
messages = st.lists(st.builds(Message, people, st.sampled_from("abcdef"), hours), max_size=30).map(
    lambda found: sorted(found, key=lambda one: one.time or 0)
)


@relaxed
@given(messages)
def test_conversations_are_the_messages_in_their_order(found: list[Message]) -> None:
    cut = list(conversations(found, HOUR * 6))
    assert [one for group in cut for one in group] == found
    assert all(cut)


@relaxed
@given(messages, messages)
def test_what_is_appended_changes_no_earlier_window_but_the_last_reply(one: list[Message], two: list[Message]) -> None:
    later = [replace(message, time=(message.time or 0) + 1000 * HOUR) for message in two]
    before, after = windows(one, HOW)[0], windows([*one, *later], HOW)[0]
    others = len({message.sender for message in one} - {"Ann"}) == len({m.sender for m in [*one, *two]} - {"Ann"})
    if others:  # a third person makes each line say who
        assert after[: len(before)] == before


@relaxed
@given(messages, st.integers(1, 9))
def test_windows_alternate_end_with_somebody_else_and_are_no_longer_than_asked(found: list[Message], n: int) -> None:
    for one in windows(found, replace(HOW, turns=n))[0]:
        roles = [role for role, _ in one.example.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert len(roles) <= n


CONTACTS = [
    ("call +49 151 2345678 now", "call [phone] now"),
    ("0151/23456789", "[phone]"),
    ("(030) 901-820", "[phone]"),
    ("+1\u202f(415)\u00a0555\u20110132", "[phone]"),
    ("on 31.12.2020 or 2020-12-31, 10:30", "on 31.12.2020 or 2020-12-31, 10:30"),
    ("3.14159265 and 1.000.000", "3.14159265 and 1.000.000"),
    ("ann.lee+x@mail.example.org!", "[email]!"),
    ("@ann_lee and \u2068x", "[handle] and x"),
    ("@\u2068Cem Kaya\u2069 look", "[handle] look"),
    ("https://x.example/a?b=1 www.y.example", "[url] [url]"),
    ("Will Smith will call Smith, said smith", "[name] will call [name], said smith"),
]


@pytest.mark.parametrize(("text", "without"), CONTACTS)
def test_what_is_taken_out(text: str, without: str) -> None:
    redactor = Redactor(KINDS, {}, ["Will Smith"])
    assert redactor(text) == without
    assert sum(redactor.counts.values()) == without.count("[")
    assert Redactor([], {})(text) == text.replace("\u2068", "")


LONG = ["a", " ", "1", "a.", "@", "[", "\u200e<", "1 "]


@pytest.mark.parametrize("text", [one * (300_000 // len(one)) + "x" for one in LONG], ids=LONG)
def test_a_message_of_any_length_is_read_in_one_go(tmp_path: Path, text: str) -> None:
    assert len(Redactor(KINDS, {"Bob": "B."}, ["Will Smith"])(text)) <= len(text) * 4
    assert not says_nothing(text + "x")
    day = f"31/12/20, 10:00 - Bob: {text}\n31/12/20, 10:01 - Ann: {text} <\n"
    (tmp_path / "x.txt").write_text(day)
    assert len(read_chat(tmp_path / "x.txt", "chat")[1]) == (0 if text.startswith("\u200e") else 2)


def test_names_are_mapped_whether_or_not_anything_is_taken_out() -> None:
    assert Redactor([], {"Ann Lee": "A.", "Ann": "A."})("Ann Lee, Ann, Anna") == "A., A., Anna"
    assert Redactor(["names"], {"Bob": "B."}, ["Bob", "Cem"])("Bob and Cem") == "B. and [name]"


def test_a_reply_of_which_nothing_is_left_is_none() -> None:
    day = talk(("Bob", "where?"), ("Ann", "https://x.example"), ("Bob", "ah"), ("Ann", "yes https://x.example"))
    found = shown(day, replace(HOW, redact=("urls",)))
    assert [reply for _, reply in found] == ["yes [url]"]


# the rule

WORDS = "tide boat lamp rope salt keel oar mist sail gull dock wave".split()  # noqa: SIM905
PARAMS: dict[str, Any] = {
    **{"speaker": "Ann", "turns": 4, "gap_hours": 6.0, "half_life_days": 0.0, "max_examples": 1000},
    **{"names": {}, "redact": ["phones"], "heldout": 0.3, "min_examples": 8},
}


def export(days: int) -> str:
    lines = []
    for day in range(days):
        a, b = WORDS[day % 12], WORDS[day * 5 // 12 % 12]
        date = f"{day % 28 + 1:02}/{day // 28 % 12 + 1:02}/2020"
        lines.append(f"{date}, 10:00 - Bob Roy: what of the {a} and the {b}, number {day}?")
        lines.append(f"{date}, 10:05 - Ann: {b} first, then {a}, and I will not hurry it {day}")
    return "\n".join(lines) + "\n"


def act(at: Path, text: str, **params: Any) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    (at / "out").mkdir(parents=True)
    (at / "chat.txt").write_text(text)
    chat.run(ActionContext("task.x/corpus", "00", PARAMS | params, {"source": at / "chat.txt"}, at / "out"))
    sides = [(at / "out" / name).read_text().splitlines() for name in ("train.jsonl", "heldout.jsonl")]
    card = json.loads((at / "out" / "card.json").read_text())
    return card, [json.loads(line) for line in sides[0]], [json.loads(line) for line in sides[1]]


def test_a_chat_becomes_a_corpus(tmp_path: Path) -> None:
    card, train, held = act(tmp_path, export(100))
    assert (len(train) + len(held), card["train"], card["heldout"]) == (100, len(train), len(held))
    assert 15 < len(held) < 45
    assert train[0].keys() == {"id", "node", "messages", "continuation", "rejected", "counter"}
    assert card["chat"] == {
        **{"formats": ["whatsapp"], "messages": 200, "people": 2, "conversations": 100, "windows": 100, "forgotten": 0},
        **{"from": "2020-01-01", "to": "2020-04-16", "redacted": {}},
    }
    told = json.dumps(card)
    assert not any(word in told for word in (*WORDS, "Ann", "Bob", "hurry"))


def test_older_replies_are_forgotten_first_and_for_good(tmp_path: Path) -> None:
    text = export(300)
    whole = act(tmp_path / "a", text)
    some = act(tmp_path / "b", text, half_life_days=60.0)
    fewer = act(tmp_path / "c", text, half_life_days=30.0)
    ids = [{row["id"] for row in (*train, *held)} for _, train, held in (whole, some, fewer)]
    assert ids[2] < ids[1] < ids[0]
    about = some[0]["chat"]
    assert about["windows"] - about["forgotten"] == len(ids[1]) + some[0]["near"]

    def day(row: dict[str, Any]) -> int:
        return int(row["continuation"].split()[-1])

    ages = [[day(row) for row in (*train, *held)] for _, train, held in (whole, some)]
    assert sum(ages[1]) / len(ages[1]) > sum(ages[0]) / len(ages[0]) + 30
    capped = act(tmp_path / "d", text, max_examples=50)
    assert capped[0]["train"] + capped[0]["heldout"] == 50


def test_a_longer_export_moves_nothing(tmp_path: Path) -> None:
    _, train, held = act(tmp_path / "a", export(60))
    _, more, out = act(tmp_path / "b", export(100))
    assert {row["id"] for row in train} < {row["id"] for row in more}
    assert {row["id"] for row in held} < {row["id"] for row in out}


def test_a_speaker_who_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="nobody of this name among the 2 people") as caught:
        act(tmp_path / "a", export(20), speaker="Zoe")
    assert not any(name in str(caught.value) for name in ("Ann", "Bob"))
    with pytest.raises(ActionError, match="did you mean 'Bob Roy'"):
        act(tmp_path / "b", export(20), speaker="Bob Ray")


def test_the_traps_of_chats_are_named(tmp_path: Path) -> None:
    assert act(tmp_path / "a", export(100))[0]["warnings"] == []
    talks = [f"[Bob] what of the {a} and of the {b}?\n[Ann] the {b} is not the {a}\n---" for a in WORDS for b in WORDS]
    assert act(tmp_path / "b", "\n".join(talks))[0]["warnings"] == []
    card, _, _ = act(tmp_path / "c", "\n".join(talks[:19]), half_life_days=30.0, heldout=0.4)
    assert card["warnings"][:2] == [
        "the export tells no times: no reply is older than another",
        f"only {card['chat']['conversations']} conversations, each on one side as a whole: the sides are coarse",
    ]
    assert (card["chat"]["from"], card["chat"]["forgotten"]) == (None, 0)


def test_a_short_chat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="3 different examples, fewer than min_examples = 8"):
        act(tmp_path, export(3))
