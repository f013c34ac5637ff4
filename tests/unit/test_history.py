"""The history of a project: builds are found by hash, prefix or name; damaged state is a fresh start."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache.history import BuildRecord, History, build_hash
from amybuild.cache.store import write_atomic
from amybuild.digest import canonical, digest_value
from amybuild.errors import ActionError, InputError, PinError
from tests.unit.test_store import STRANGE, damaged


def build(hash: str, time: str = "2026-01-01T00:00:00") -> BuildRecord:
    return BuildRecord(hash, "tess", time, {"task.x/train": ("k", "o")}, "g", "b", "", {"name": "tess"})


def history(tmp_path: Path, project: str = "project") -> History:
    return History(tmp_path / "cache", tmp_path / project)


def state_path(tmp_path: Path) -> Path:
    return next((tmp_path / "cache/state").glob("*.json"))


def test_what_is_noted_is_there_next_time(tmp_path: Path) -> None:
    one = history(tmp_path)
    one.note({"a": "1", "b": "2"})
    one.note({"a": "3"})
    one.set_product(tmp_path / "dist", build("h"), {"config.json": [1, 2]})
    again = history(tmp_path)
    assert (again.last_key("a"), again.last_key("b"), again.last_key("c")) == ("3", "2", None)
    info = digest_value("info", build("h").info)
    assert again.product(tmp_path / "dist") == {"build": "h", "info": info, "files": {"config.json": [1, 2]}}
    assert again.product(tmp_path / "other") == {}
    assert history(tmp_path, "another").last_key("a") is None


def test_a_query_writes_nothing(tmp_path: Path) -> None:
    one = history(tmp_path)
    one.note({})
    one.log()
    one.names()
    one.product(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_builds_are_found_by_hash_prefix_and_name(tmp_path: Path) -> None:
    one = history(tmp_path)
    for hash in ("aaaa1111", "aaaa2222", "bbbb3333"):
        one.add(build(hash))
    one.name("good", "aaaa1111")
    again = history(tmp_path)
    assert again.find(None) == build("bbbb3333")
    assert again.find("aaaa1").hash == "aaaa1111"
    assert again.find("good").hash == "aaaa1111"
    refused = {"aaaa": "beginning of 2 builds", "bbb": "no build", "cccc": "no build", "../x": "no build"}
    for wanted, word in refused.items():
        with pytest.raises(InputError, match=word):
            again.find(wanted)
    with pytest.raises(InputError, match="nothing was built"):
        history(tmp_path, "new").find(None)


def test_the_log_has_a_line_for_each_change_of_build(tmp_path: Path) -> None:
    one, other = history(tmp_path), history(tmp_path)
    for hash in ("aaaa", "aaaa", "bbbb", "aaaa"):
        one.add(build(hash))
    other.add(build("aaaa"))  # it was opened before the others were written
    assert [hash for _, hash, _ in history(tmp_path).log()] == ["aaaa", "bbbb", "aaaa"]


def test_two_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    histories = [history(tmp_path) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda i=i, one=one: [one.note({f"{i}.{n}": "k"}) for n in range(5)])
        for i, one in enumerate(histories)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = history(tmp_path)
    assert all(again.last_key(f"{i}.{n}") == "k" for i in range(4) for n in range(5))


def use(one: History, folder: Path) -> None:
    """All that a command asks; none of it may fail."""
    assert isinstance(one.last_key("a"), str | None)
    one.log()
    one.names()
    assert isinstance(one.product(folder).get("files", {}), dict)
    with contextlib.suppress(InputError, PinError):
        one.find(None)


def test_damaged_state_is_never_a_crash(tmp_path: Path) -> None:
    one = history(tmp_path)
    one.note({"a": "1"})
    one.add(build("aaaa1111"))
    one.set_product(tmp_path / "dist", build("h"), {})
    path = state_path(tmp_path)
    whole = path.read_bytes()
    for data in [*damaged(whole), *STRANGE]:
        path.write_bytes(data)
        use(history(tmp_path), tmp_path / "dist")
    again = history(tmp_path)
    again.note({"b": "2"})
    assert history(tmp_path).last_key("b") == "2"


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [1], {"a": 3}, {"a": None}, [[1]], [["t", "h"]], {"a": []}])
@pytest.mark.parametrize("table", ["actions", "product", "log", "names", "schema"])
def test_a_state_table_of_another_shape_is_never_a_crash(tmp_path: Path, table: str, value: Any) -> None:
    one = history(tmp_path)
    one.note({"a": "1"})
    write_atomic(state_path(tmp_path), canonical({"schema": 1, "actions": {}, table: value}))
    use(history(tmp_path), tmp_path / "a")


def test_a_damaged_build_record_is_told(tmp_path: Path) -> None:
    one = history(tmp_path)
    one.add(build("aaaa1111"))
    path = next((tmp_path / "cache/builds").rglob("aaaa1111.json"))
    whole = path.read_bytes()
    for data in [*damaged(whole), *STRANGE]:
        path.write_bytes(data)
        found = one.read("aaaa1111")
        assert found is None or found.hash == "aaaa1111"
    path.write_bytes(whole[:-1])
    with pytest.raises(PinError, match="cannot be read"):
        one.find("aaaa1111")


def test_a_state_that_cannot_be_written_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ActionError, match="cannot write"):
        history(tmp_path).note({"a": "1"})


def test_the_build_hash_is_what_came_out() -> None:
    outputs = {"a": "1", "b": "2"}
    assert build_hash("p", outputs) == build_hash("p", dict(reversed(outputs.items())))
    assert len({build_hash("p", outputs), build_hash("q", outputs), build_hash("p", {"a": "2", "b": "1"})}) == 3
