"""The lock that is a file: one holder at a time, threads too; damage in its place gives way."""

from __future__ import annotations

import threading
from pathlib import Path

from amybuild.cache.history import History
from amybuild.cache.lock import FileLock


def test_it_excludes_others_and_can_be_taken_again(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "deep" / "k.lock"), FileLock(tmp_path / "deep" / "k.lock")
    assert one.acquire(wait=False)
    assert one.held
    assert not other.acquire(wait=False)
    assert not other.held
    one.release()
    one.release()
    assert other.acquire(wait=False)


def test_who_waits_gets_it_when_it_is_let_go(tmp_path: Path) -> None:
    one, got = FileLock(tmp_path / "k.lock"), threading.Event()

    def wait() -> None:
        with FileLock(tmp_path / "k.lock"):
            got.set()

    one.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.05)
    one.release()
    assert got.wait(10)
    thread.join()


def test_a_folder_in_its_place_gives_way(tmp_path: Path) -> None:
    (tmp_path / "k.lock" / "inside").mkdir(parents=True)
    assert FileLock(tmp_path / "k.lock").acquire(wait=False)


def test_the_state_of_a_project_can_be_written_when_a_folder_lies_where_its_lock_was(tmp_path: Path) -> None:
    """Found by a random history (seed 6092): every build of the project failed from then on."""
    history = History(tmp_path / "cache", tmp_path)
    history.note({"a/x": "1"})
    lock = history.state_path.with_suffix(".json.lock")
    lock.unlink()
    (lock / "inside").mkdir(parents=True)
    history.note({"a/x": "2"})
    assert History(tmp_path / "cache", tmp_path).last_key("a/x") == "2"
