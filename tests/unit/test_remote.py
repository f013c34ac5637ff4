"""The shared store: believed by digest only, never waited for twice, and no failure of it ever fails a build."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.cache.actions import ActionCache, Record, parse_record, render_record
from amybuild.cache.gc import collect
from amybuild.cache.layered import Shared
from amybuild.cache.remote import Bucket, Folder, Place
from amybuild.cache.store import Store
from amybuild.errors import CacheDamage
from tests.unit.test_gc import files, key, make
from tests.unit.test_store import contents
from tests.unit.test_store_verify import BAD

URL = "file:///shared"


class Counting:
    """A place that counts what it is asked, fails at the n-th question, and may forbid writing."""

    def __init__(self, place: Place, fail_at: int = 0, error: Exception | None = None, readonly: bool = False) -> None:
        self.place, self.fail_at, self.error, self.readonly = place, fail_at, error, readonly
        self.asked: list[tuple[str, str]] = []

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def call(name: str, *args: Any, **named: Any) -> Any:
            self.asked.append((verb, name))
            if len(self.asked) == self.fail_at:
                raise self.error or ConnectionError("secret-token in the message")
            if self.readonly and verb in ("add", "send"):
                raise PermissionError(errno.EACCES, "secret-token")
            return getattr(self.place, verb)(name, *args, **named)

        return call


class Machine:
    """One project's local cache in front of a shared place."""

    def __init__(self, cache: Path, place: Any, *, readonly: bool = False) -> None:
        self.store = Store(cache, Shared(cache, URL, lambda: place, readonly))
        self.cache = ActionCache(self.store)

    def build(self, *numbers: int) -> list[int]:
        """Bring these results up to date and read them all; which had to be made."""
        self.store.begin()
        made = []
        for number in numbers:
            for _ in range(2):
                record = self.cache.lookup(key(number))
                if record is None:
                    made.append(number)
                    make(self.cache, number)
                    record = self.cache.lookup(key(number))
                assert record is not None
                try:
                    view = self.store.view(record.output, self.store.scratch() / "view")
                except CacheDamage:  # as `build` does: its action is a miss now
                    continue
                assert contents(view) == files(number)
                break
            else:
                raise AssertionError("it does not become whole")
        self.store.close()
        return made


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        yield Folder(tmp_path / "shared")
    else:
        from fsspec.implementations.memory import MemoryFileSystem

        fs = MemoryFileSystem()
        fs.store.clear()
        yield Bucket(fs, "/bucket/prefix")
        fs.store.clear()


# what a place does


def test_a_place_keeps_bytes_and_the_first_of_a_name(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place.read("a/b")
    with pytest.raises(FileNotFoundError):
        place.size("a/b")
    with pytest.raises(FileNotFoundError):
        place.fetch("a/b", tmp_path / "got", 1)
    place.add("a/b", b"one", replace=False)
    with pytest.raises(FileExistsError):
        place.add("a/b", b"two", replace=False)
    assert place.read("a/b") == b"one"
    place.add("a/b", b"three", replace=True)
    (tmp_path / "source").write_bytes(b"object" * 1000)
    place.send("c/d", tmp_path / "source")
    assert (place.size("a/b"), place.size("c/d")) == (5, 6000)
    place.fetch("c/d", tmp_path / "got", 6000)
    assert (tmp_path / "got").read_bytes() == b"object" * 1000


def test_a_folder_is_left_without_half_written_files(tmp_path: Path) -> None:
    (tmp_path / "shared/tmp").mkdir(parents=True)
    (tmp_path / "shared/tmp/.part.0123456789ab").write_bytes(b"of a killed one")
    folder = Folder(tmp_path / "shared")
    folder.add("a", b"1", replace=False)
    with pytest.raises(FileExistsError):
        folder.add("a", b"1", replace=False)
    assert not list((tmp_path / "shared/tmp").iterdir())


# between machines


def test_what_one_machine_made_another_need_not(place: Place, tmp_path: Path) -> None:
    assert Machine(tmp_path / "one", place).build(1, 2) == [1, 2]
    assert Machine(tmp_path / "two", place).build(1, 2, 3) == [3]
    assert Machine(tmp_path / "one", place).build(3) == []


def test_objects_come_when_they_are_needed_and_a_later_process_asks_nobody(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    counting = Counting(place)
    two = Machine(tmp_path / "two", counting)
    two.store.begin()
    assert two.cache.lookup(key(1))
    assert {verb for verb, _ in counting.asked} == {"read"}
    assert not (tmp_path / "two/objects").exists()
    two.store.close()
    later = Counting(place)
    plan = Machine(tmp_path / "two", later)
    assert plan.cache.lookup(key(1))
    assert later.asked == [], "a plan of what is known asks nobody"
    assert Machine(tmp_path / "two", later).build(1) == []
    assert {verb for verb, _ in later.asked} == {"fetch"}
    last = Counting(place)
    assert Machine(tmp_path / "two", last).build(1) == []
    assert last.asked == []


def test_a_query_asks_and_writes_nothing(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    query = Machine(tmp_path / "two", place)
    assert query.cache.lookup(key(1))
    assert query.cache.borrowed
    assert not (tmp_path / "two").exists()


def test_what_is_not_there_is_asked_once(place: Place, tmp_path: Path) -> None:
    counting = Counting(place)
    machine = Machine(tmp_path / "one", counting)
    assert [machine.cache.lookup(key(1)) for _ in range(5)] == [None] * 5
    assert len(counting.asked) == 1


def test_without_its_shared_store_a_result_that_lies_there_is_a_miss(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    two = Machine(tmp_path / "two", place)
    two.store.begin()
    assert two.cache.lookup(key(1))
    two.store.close()
    assert ActionCache(Store(tmp_path / "two")).lookup(key(1)) is None
    other = Shared(tmp_path / "two", "file:///another", lambda: Folder(tmp_path / "empty"))
    assert ActionCache(Store(tmp_path / "two", other)).lookup(key(1)) is None
    found = collect(tmp_path / "two")
    assert {name.partition("/")[0] for name in found.files} == {"actions", "trees", "elsewhere"}


def test_the_first_result_stays_and_a_different_one_is_told(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    two = Machine(tmp_path / "two", Folder(tmp_path / "nothing"))
    two.store.begin()
    out = two.store.scratch() / "out"
    out.mkdir()
    (out / "own").write_bytes(b"another result")
    record = Record("a1/x", "r", key(1), (), two.store.put_tree(out), 1.0, "2026-01-01T00:00:00")
    assert two.store.shared is not None
    two.store.shared._place = place
    two.cache.publish(record)
    two.store.close()
    assert two.store.notes == ["the shared store has another result of a1/x; it stays"]
    there = parse_record(key(1), place.read(f"actions/00/{key(1)}.json"))
    assert there is not None
    assert there.output != record.output


def test_a_read_only_one_is_read_and_never_written(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    counting = Counting(place)
    assert Machine(tmp_path / "two", counting, readonly=True).build(1, 2) == [2]
    assert {verb for verb, _ in counting.asked} == {"read", "fetch"}


def test_one_that_refuses_is_told_once_and_still_read(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    machine = Machine(tmp_path / "two", Counting(place, readonly=True))
    assert machine.build(2, 3, 1) == [2, 3]
    assert len(machine.store.notes) == 1
    assert "no permission" in machine.store.notes[0]
    assert "secret" not in machine.store.notes[0]


# failures


def test_a_failure_at_any_question_never_fails_a_build_and_is_told_once(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    at = 0
    while True:
        at += 1
        counting = Counting(place, fail_at=at)
        machine = Machine(tmp_path / f"m{at}", counting)
        made = machine.build(1, 4)
        assert 4 in made
        if len(counting.asked) < at:
            assert not machine.store.notes
            break
        (note,) = machine.store.notes
        assert "not used any more" in note
        assert "ConnectionError" in note
        assert "secret" not in note
        assert len(counting.asked) == at, "after the first failure nobody is asked"
        again = Machine(tmp_path / f"m{at}", place)
        assert again.build(1, 4) == []
        shutil.rmtree(tmp_path / f"m{at}")
    assert at > 8


def test_a_full_local_disk_is_no_failure_of_the_shared_store(place: Place, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).build(1)
    full = Counting(place, fail_at=3, error=OSError(errno.ENOSPC, "No space left on device"))
    from amybuild.errors import ActionError

    with pytest.raises(ActionError, match="the disk is full"):
        Machine(tmp_path / "two", full).build(1)


def test_a_missing_package_is_a_note(tmp_path: Path) -> None:
    def missing() -> Place:
        raise ImportError("No module named 's3fs'")

    store = Store(tmp_path / "one", Shared(tmp_path / "one", "s3://b", missing))
    assert ActionCache(store).lookup(key(1)) is None
    assert "amybuild[s3]" in store.notes[0]


# damage and malice


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_happens_to_the_shared_files_the_result_is_right(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("shared")
    shared = root / "shared"
    Machine(root / "one", Folder(shared)).build(1, 2)
    paths = sorted(path for path in shared.rglob("*") if path.is_file())
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3, unique=True)):
        whole = path.read_bytes()
        how = data.draw(st.sampled_from(["flip", "cut", "empty", "delete", "swap"]))
        path.chmod(0o644)
        if how == "flip":
            at = data.draw(st.integers(0, len(whole) - 1))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        elif how == "swap":
            path.write_bytes(data.draw(st.sampled_from(paths)).read_bytes() if path.exists() else b"")
        elif how == "delete":
            path.unlink()
        else:
            path.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"")
        if not path.exists():
            paths = [one for one in paths if one.exists()]
    # each build is right, and mends what it met: a record that was unreadable can hide a damaged object
    for number in range(4):
        if not Machine(root / f"m{number}", Folder(shared)).build(1, 2):
            return
    raise AssertionError("the damage stays")


def hostile(root: Path, name: str) -> Machine:
    """A machine behind a shared store whose listing names a file `name`, with all digests right."""
    from amybuild.cache.store import Entry, listing, tree_digest
    from amybuild.digest import digest_bytes

    tree = {name: Entry(digest_bytes(b"evil"), 4)}
    digest = tree_digest(tree)
    record = Record("a1/x", "r", key(1), (), digest, 1.0, "2026-01-01T00:00:00")
    folder = Folder(root / "shared")
    folder.add(f"actions/00/{key(1)}.json", render_record(record), replace=True)
    folder.add(f"trees/{digest[:2]}/{digest}.json", listing(tree), replace=True)
    folder.add(f"objects/{digest_bytes(b'evil')[:2]}/{digest_bytes(b'evil')}", b"evil", replace=True)
    return Machine(root / "cache", folder)


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_leads_out_is_a_miss(tmp_path: Path, name: str) -> None:
    machine = hostile(tmp_path, name)
    assert machine.build(1) == [1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"evil" and path.suffix]


def test_a_record_whose_output_is_a_path_is_a_miss(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "shared")
    for output in ("../../../etc/passwd", "x" * 64, "", "/" * 64):
        record = Record("a1/x", "r", key(1), (), output, 1.0, "now")
        folder.add(f"actions/00/{key(1)}.json", render_record(record), replace=True)
        counting = Counting(folder)
        assert Machine(tmp_path / "cache", counting).cache.lookup(key(1)) is None
        assert len(counting.asked) == 1


def test_a_record_under_another_key_is_a_miss(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "shared")
    Machine(tmp_path / "one", folder).build(1)
    folder.add(f"actions/00/{key(2)}.json", folder.read(f"actions/00/{key(1)}.json"), replace=True)
    assert Machine(tmp_path / "two", folder).build(2) == [2]


@pytest.mark.parametrize("change", [{"seconds": 1e300}, {"seconds": -1}, {"action": "a\x1b[2J/x"}], ids=str)
def test_a_record_that_cannot_be_shown_is_a_miss(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Folder(tmp_path / "shared")
    Machine(tmp_path / "one", folder).build(1)
    record = parse_record(key(1), folder.read(f"actions/00/{key(1)}.json"))
    assert record is not None
    changed = Record(**{**record.__dict__, **change})
    folder.add(f"actions/00/{key(1)}.json", render_record(changed), replace=True)
    assert Machine(tmp_path / "two", folder).cache.lookup(key(1)) is None


def test_who_is_interrupted_waits_for_no_upload(tmp_path: Path) -> None:
    import threading

    started, release = threading.Event(), threading.Event()

    class Slow(Folder):
        def send(self, name: str, source: Path) -> None:
            started.set()
            assert release.wait(20)

    machine = Machine(tmp_path / "one", Slow(tmp_path / "shared"))
    make(machine.cache, 1)
    make(machine.cache, 2)
    assert started.wait(20)
    machine.store.close(wait=False)
    assert not release.is_set(), "and yet close has returned"
    release.set()
