"""Memos: an answer holds for its stamp only, and any edit changes the stamp."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache import memo as module
from amybuild.cache.memo import Memo, stamp
from amybuild.digest import digest_file
from amybuild.errors import InputError
from tests.unit.test_store import STRANGE, damaged


class Counter:
    def __init__(self, value: Any = "answer") -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> Any:
        self.calls += 1
        return self.value


@pytest.mark.parametrize("stamp", [1, "x", [1, 2], ("a", 1), [("a",), ["b"]], None, {"k": (1,)}])
def test_an_answer_is_found_once_per_stamp_across_processes(tmp_path: Path, stamp: Any) -> None:
    find = Counter()
    for _ in range(3):
        memo = Memo(tmp_path / "memo.json")
        assert memo.get("name", stamp, find) == "answer"
        memo.save()
    assert find.calls == 1
    Memo(tmp_path / "memo.json").get("name", [stamp, "other"], find)
    Memo(tmp_path / "memo.json").get("another", stamp, find)
    assert find.calls == 3


def test_nothing_is_written_before_save(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo.json")
    memo.get("name", 1, Counter())
    assert not list(tmp_path.iterdir())
    memo.save()
    before = stamp(tmp_path / "memo.json")
    memo.get("name", 1, Counter())
    memo.save()
    assert stamp(tmp_path / "memo.json") == before


def test_a_damaged_memo_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "memo.json"
    memo = Memo(path)
    memo.get("name", [1, "stamp"], Counter())
    memo.save()
    whole = path.read_bytes()
    for data in [*damaged(whole), *STRANGE, b'{"name": 3}', b'{"name": [1]}', b'{"name": {}}']:
        path.write_bytes(data)
        found = Memo(path).get("name", [1, "stamp"], Counter())
        assert found == "answer" or (isinstance(found, str) and len(data) == len(whole))
        assert Memo(path).get("name", [2, "stamp"], Counter()) == "answer"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(module, "TICK", 0)


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once_until_it_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def read(path: Path) -> str:
        reads.append(path)
        return digest_file(path)

    monkeypatch.setattr(module, "digest_file", read)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    before = os.stat(file)
    memo = Memo(tmp_path / "memo.json")
    first = memo.digest_path(file)
    assert memo.digest_path(file) == first == digest_file(file)
    assert len(reads) == 1
    time.sleep(0.02)  # past a step of the file system's clock
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(file)
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert memo.digest_path(file) == digest_file(file) != first


def test_edits_within_one_step_of_the_clock_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "f"
    memo = Memo(tmp_path / "memo.json")
    for i in range(300):
        file.write_bytes(b"%03d" % i)
        assert memo.digest_path(file) == digest_file(file)


def test_a_folder_is_its_files_and_their_names(tmp_path: Path) -> None:
    def digest() -> str:
        return Memo(tmp_path / "memo.json").digest_path(tmp_path / "base")

    (tmp_path / "base/deep").mkdir(parents=True)
    (tmp_path / "base/a").write_text("1")
    found = [digest()]
    (tmp_path / "base/deep/b").write_text("1")
    found.append(digest())
    (tmp_path / "base/deep/b").rename(tmp_path / "base/deep/c")
    found.append(digest())
    (tmp_path / "base/a").write_text("2")
    found.append(digest())
    assert len(set(found)) == 4
    (tmp_path / "base/.git").mkdir()
    (tmp_path / "base/.git/x").write_text("1")
    (tmp_path / "base/empty").mkdir()
    assert digest() == found[-1]
    (tmp_path / "base").rename(tmp_path / "moved")
    assert Memo(tmp_path / "memo.json").digest_path(tmp_path / "moved") == found[-1]


def test_what_cannot_be_read_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("x")

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "digest_file", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        Memo(tmp_path / "memo.json").digest_path(tmp_path / "f")
