"""Every chat format: what is read, what is left out, how it is told apart, and that errors quote nobody."""

# ruff: noqa: RUF001
from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory.chat.formats import FORMATS, read_chat
from amybuild.memory.chat.message import Message
from amybuild.memory.chat.when import seconds


def chat(at: Path, text: str | bytes, name: str = "x.txt") -> tuple[tuple[str, ...], list[Message]]:
    (at / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_chat(at / name, "chat")


def said(messages: list[Message]) -> list[tuple[str, str]]:
    return [(one.sender, one.text) for one in messages]


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


ANDROID = """\
12/31/20, 11:58\u202fPM - Messages and calls are end-to-end encrypted. Tap to learn more.
12/31/20, 11:59\u202fPM - Ann Lee: The boat is out: look
a second line

and one after a gap
1/1/21, 12:00\u202fAM - Bob: <Media omitted>
1/1/21, 12:01\u202fAM - Bob: IMG-2020.jpg (file attached)
what a night
1/1/21, 12:02\u202fAM - Ann Lee changed the subject from "a" to "b: c"
1/1/21, 12:03\u202fAM - Bob: This message was deleted
1/1/21, 12:04\u202fAM - Bob: see you <This message was edited>
"""
IOS = """\
\u200e[31.12.20, 23:58:00] Boat crew: \u200eMessages and calls are end-to-end encrypted.
[31.12.20, 23:59:01] Ann Lee: The boat is out
\u200e[01.01.21, 00:01:02] ~ Bob: \u200eimage omitted
[01.01.21, 00:02:03] ~ Bob: what a night \u200e<This message was edited>
"""


def test_whatsapp_android(tmp_path: Path) -> None:
    kinds, messages = chat(tmp_path, ANDROID)
    assert kinds == ("whatsapp",)
    assert said(messages) == [
        ("Ann Lee", "The boat is out: look\na second line\n\nand one after a gap"),
        ("Bob", "what a night"),
        ("Bob", "see you"),
    ]
    assert [one.time for one in messages] == [at(2020, 12, 31, 23, 59), at(2021, 1, 1, 0, 1), at(2021, 1, 1, 0, 4)]


def test_whatsapp_ios(tmp_path: Path) -> None:
    _, messages = chat(tmp_path, IOS)
    assert said(messages) == [("Ann Lee", "The boat is out"), ("Bob", "what a night")]
    assert messages[1].time == at(2021, 1, 1, 0, 2, 3)


@pytest.mark.parametrize(
    ("line", "when"),
    [
        ("31/12/2020, 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("31.12.20, 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("2020-12-31, 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("2020/12/31 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("31/12/2020 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("31-12-2020 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("2020. 12. 31. 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("31/12/20 às 23:59 - Ann: hi", (2020, 12, 31, 23, 59)),
        ("12/31/2020, 11:59 PM - Ann: hi", (2020, 12, 31, 23, 59)),
        ("31/12/20, 11:59 p. m. - Ann: hi", (2020, 12, 31, 23, 59)),
        ("31/12/20, 12:05 am - Ann: hi", (2020, 12, 31, 0, 5)),
        ("[12/31/20, 11:59:58 PM] Ann: hi", (2020, 12, 31, 23, 59, 58)),
        ("[2020-12-31, 23:59:58] Ann: hi", (2020, 12, 31, 23, 59, 58)),
        ("[31.12.20, 23:59] Ann: hi", (2020, 12, 31, 23, 59)),
        ("٣١\u200f/١٢\u200f/٢٠٢٠، ١١:٥٩ م - Ann: hi", (2020, 12, 31, 23, 59)),  # Arabic, Android
        ("31\u200f/12\u200f/2020، 12:05 ص - Ann: hi", (2020, 12, 31, 0, 5)),
        ("\u200f[٣١\u200f/١٢\u200f/٢٠٢٠، ١١:٥٩:٥٨ م] Ann: hi", (2020, 12, 31, 23, 59, 58)),
        ("۲۰۲۰/۱۲/۳۱، ۲۳:۵۹ - Ann: hi", (2020, 12, 31, 23, 59)),  # Persian
        ("۲۰۲۰/۱۲/۳۱،\u200f ۱۱:۵۹ ب.ظ. - Ann: hi", (2020, 12, 31, 23, 59)),
        ("2020. 12. 31. 오후 11:59 - Ann: hi", (2020, 12, 31, 23, 59)),  # Korean
        ("[2020. 12. 31. 오전 12:05:58] Ann: hi", (2020, 12, 31, 0, 5, 58)),
        ("2020/12/31 午後11:59 - Ann: hi", (2020, 12, 31, 23, 59)),  # Japanese
        ("[2020/12/31 午前0:05:58] Ann: hi", (2020, 12, 31, 0, 5, 58)),
        ("[2020/12/31 下午11:59:58] Ann: hi", (2020, 12, 31, 23, 59, 58)),  # Chinese
        ("३१/१२/२०२०, ११:५९ pm - Ann: hi", (2020, 12, 31, 23, 59)),
    ],
)
def test_whatsapp_dates(tmp_path: Path, line: str, when: tuple[int, ...]) -> None:
    kinds, messages = chat(tmp_path, line + "\n")
    assert kinds == ("whatsapp",)
    assert [(one.sender, one.text, one.time) for one in messages] == [("Ann", "hi", at(*when))]


ARABIC = """\
٣\u200f/٤\u200f/٢٠٢٢، ١١:٥٨ ص - الرسائل والمكالمات مشفّرة تمامًا بين الطرفين.
٣\u200f/٤\u200f/٢٠٢٢، ١١:٥٩ ص - عمار: السلام
سطر ثان
٣\u200f/٤\u200f/٢٠٢٢، ١٢:٠٠ م - آن لي: \u200fاهلين: كيف الحال
٣\u200f/٤\u200f/٢٠٢٢، ١٢:٠١ م - آن لي: <تم استبعاد الوسائط>
٣\u200f/٤\u200f/٢٠٢٢، ١٢:٠٢ م - آن لي: IMG-2022.jpg (الملف مرفق)
٣\u200f/٤\u200f/٢٠٢٢، ١٢:٠٣ م - عمار: تم حذف هذه الرسالة
"""


def test_whatsapp_in_arabic(tmp_path: Path) -> None:
    _, messages = chat(tmp_path, ARABIC)
    assert said(messages) == [("عمار", "السلام\nسطر ثان"), ("آن لي", "اهلين: كيف الحال")]
    noon = [at(2022, 4, 3, 11, 59), at(2022, 4, 3, 12)]
    assert [one.time for one in messages] == noon, "only the clocks of am and pm put the month first"


def test_the_order_of_day_and_month_is_one_for_the_whole_chat() -> None:
    noon, one_clock = (12, 0, 0), False
    assert seconds([((3, 4, 21), noon, one_clock), ((5, 13, 21), noon, one_clock)], "x")[0] == at(2021, 3, 4, 12)
    rising = [((1, 2, 21), noon, one_clock), ((2, 1, 21), noon, one_clock)]
    assert seconds(rising, "x") == [at(2021, 1, 2, 12), at(2021, 2, 1, 12)], "time does not run backwards"
    assert seconds([((3, 4, 21), noon, False)], "x") == [at(2021, 4, 3, 12)]
    assert seconds([((3, 4, 21), noon, True)], "x") == [at(2021, 3, 4, 12)]
    with pytest.raises(InputError, match="two orders"):
        seconds([((13, 4, 21), noon, False), ((4, 13, 21), noon, False)], "x")
    assert seconds([], "x") == []


TELEGRAM: dict[str, Any] = {
    "name": "Ann",
    "type": "personal_chat",
    "id": 1,
    "messages": [
        {"id": 1, "type": "service", "date": "2020-12-31T23:00:00", "actor": "Ann", "action": "phone_call", "text": ""},
        {"id": 2, "type": "message", "date": "2020-12-31T23:59:00", "from": "Ann", "text": "The boat is out"},
        {
            "id": 3,
            "type": "message",
            "date": "2021-01-01T00:01:00",
            "date_unixtime": "1609459260",
            "from": "Bob",
            "text": ["see ", {"type": "link", "text": "boat.example"}, " there"],
        },
        {"id": 4, "type": "message", "date": "2021-01-01T00:02:00", "from": "Bob", "text": "x", "forwarded_from": "Z"},
        {"id": 5, "type": "message", "date": "2021-01-01T00:02:00", "from": None, "text": "gone"},
        {"id": 6, "type": "message", "date": "2021-01-01T00:03:00", "from": "Bob", "text": "", "photo": "p.jpg"},
    ],
}


def test_telegram(tmp_path: Path) -> None:
    kinds, messages = chat(tmp_path, json.dumps(TELEGRAM), "result.json")
    assert kinds == ("telegram",)
    assert said(messages) == [("Ann", "The boat is out"), ("Bob", "see boat.example there")]
    assert [one.time for one in messages] == [at(2020, 12, 31, 23, 59), at(2021, 1, 1, 0, 1)]
    both = {"chats": {"list": [TELEGRAM, TELEGRAM]}}
    assert {one.room for one in chat(tmp_path, json.dumps(both))[1]} == {"0", "1"}


DISCORD: dict[str, Any] = {
    "guild": {"name": "Boats"},
    "channel": {"id": "9", "name": "general"},
    "messages": [
        {
            "id": str(number),
            "type": kind,
            "timestamp": f"2020-12-31T23:5{number}:00.123+01:00",
            "content": content,
            "author": {"id": "1", "name": "ann", "nickname": "Ann", "isBot": bot},
        }
        for number, (kind, content, bot) in enumerate(
            [
                *(("Default", "out", False), ("Reply", "yes", False), ("GuildMemberJoin", "joined", False)),
                *(("Default", "beep", True), ("Default", "", False)),
            ]
        )
    ],
}


def test_discord(tmp_path: Path) -> None:
    kinds, messages = chat(tmp_path, json.dumps(DISCORD))
    assert kinds == ("discord",)
    assert said(messages) == [("Ann", "out"), ("Ann", "yes")]
    assert messages[0].time == at(2020, 12, 31, 22, 50) + 0.123


IMAZING = """\
Chat Session,Message Date,Delivered Date,Service,Type,Sender ID,Sender Name,Status,Subject,Text,Attachment
Ann,2020-12-31 23:59:00,,iMessage,Incoming,+49151,Ann Lee,Read,,"The boat, it is ""out""\nlook",
Ann,2021-01-01 00:01:00,,iMessage,Outgoing,,,Read,,what a night,
Ann,2021-01-01 00:02:00,,iMessage,Notification,,Ann Lee,,,left,
Ann,2021-01-01 00:03:00,,iMessage,Outgoing,,,Read,,,photo.jpg
"""
SIGNAL = "id;Date_Sent;Address;Body;Type\n2;1609459260000;+49151;later;inbox\n1;1609459140000;+49151;first;inbox\n"


def test_tables(tmp_path: Path) -> None:
    kinds, messages = chat(tmp_path, IMAZING, "x.csv")
    assert kinds == ("table",)
    assert said(messages) == [("Ann Lee", 'The boat, it is "out"\nlook'), ("Me", "what a night")]
    messages = chat(tmp_path, SIGNAL, "x.csv")[1]
    assert [(one.text, one.time) for one in messages] == [
        ("first", at(2020, 12, 31, 23, 59)),
        ("later", at(2021, 1, 1, 0, 1)),
    ]
    local = "date\tfrom\ttext\n12/31/2020 11:59 PM\tAnn\thi\n"
    assert chat(tmp_path, local, "x.csv")[1] == [Message("Ann", "hi", at(2020, 12, 31, 23, 59))]


def test_plain(tmp_path: Path) -> None:
    kinds, messages = chat(tmp_path, "[Ann Lee] hi\nthere\n\n[Bob]: yes\n---\n[Ann Lee] again\n")
    assert kinds == ("plain",)
    assert said(messages) == [("Ann Lee", "hi\nthere"), ("Bob", "yes"), ("Ann Lee", "again")]
    assert [one.parted for one in messages] == [False, False, True]


def test_a_folder_is_several_chats(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("[Ann] hi\n")
    (tmp_path / "in/b.json").write_text(json.dumps(TELEGRAM))
    (tmp_path / "in/photo.jpg").write_bytes(b"\xff")
    kinds, messages = read_chat(tmp_path / "in", "chat")
    assert kinds == ("plain", "telegram")
    assert [one.room for one in messages] == ["a.txt/", "b.json/0", "b.json/0"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no export"):
        read_chat(tmp_path / "none", "chat")


def test_what_is_no_chat_names_all_that_was_tried(tmp_path: Path) -> None:
    for text in ("Dear diary, hush", "", "{}", "[1, 2]", '{"messages": [{"hush": 1}]}', "a,b\n1,2\n", "null"):
        with pytest.raises(InputError, match="no chat export") as caught:
            chat(tmp_path, text)
        assert all(one.name in str(caught.value) for one in FORMATS)
        assert "hush" not in str(caught.value)


TWICE = {**TELEGRAM, "messages": [TELEGRAM["messages"][1]] * 2}
DATES = {**TELEGRAM, "messages": [{**TELEGRAM["messages"][1], "date": "hush"}]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[Ann] hi\n[Bob] \xff\xfe\n", "chat:2: not UTF-8"),
        ("[Ann] " + "x" * (17 << 20), "a line of 17 MiB"),
        (json.dumps(TWICE), "message 2: an id that was there"),
        (json.dumps(DATES), "message 1: a date that is none"),
        ("date,from,text\nhush,Ann,hi\n", "dates that are none"),
        ("31/12/2020, 23:59 - Ann: hush\n12/31/2020, 23:59 - Ann: hush\n", "in two orders"),
        ("99/99/2020, 23:59 - Ann: hush\n", "dates that are none"),
        (json.dumps({**DISCORD, "messages": [*DISCORD["messages"][:5], *DISCORD["messages"][:1]]}), "an id that was"),
    ],
)
def test_what_is_damaged_is_refused_without_a_word_of_it(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        chat(tmp_path, text)
    assert "hush" not in str(caught.value)


def test_half_a_surrogate_pair_does_no_harm(tmp_path: Path) -> None:
    text = json.dumps({**TELEGRAM, "messages": [{**TELEGRAM["messages"][1], "text": "a\ud83d b \ud83d\ude00"}]})
    assert chat(tmp_path, text)[1][0].text == "a\ufffd b \U0001f600"


keys = st.sampled_from("messages type date from text channel author timestamp chats list".split())  # noqa: SIM905
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=6), lambda some: st.lists(some) | st.dictionaries(keys, some)
)
lines = st.sampled_from(["31/12/20, 23:59 - Ann: hi", "[Ann] hi", "---", "date,from,text", "1,2,3", "\u200e", '"', "x"])
anything = st.one_of(st.text(max_size=80), values.map(json.dumps), st.lists(lines).map("\n".join))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(anything)
def test_anything_is_read_or_refused(tmp_path: Path, text: str) -> None:
    try:
        messages = chat(tmp_path, text.encode("utf-8", "replace"))[1]
    except InputError:
        return
    for one in messages:
        assert one.sender
        assert one.text == one.text.strip() != ""
        one.text.encode()
