"""The store: what goes in comes out; damage is a miss; the room of a killed process is free at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import amybuild
from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.disk import seal, unseal
from amybuild.cache.store import Store, read_json
from amybuild.errors import ActionError, CacheDamage

FILES = {"config.json": b"{}", "deep/er/weights.bin": bytes(range(256)) * 9, "empty": b"", "again": b"{}"}
names = st.lists(st.sampled_from(["a", "b", "ä b", "c.json"]), min_size=1, max_size=3).map("/".join)
trees = st.dictionaries(names, st.binary(max_size=20), max_size=5)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "store")
    yield one
    one.close()


def put(store: Store, files: dict[str, bytes]) -> str:
    return store.put_tree(fill(store.scratch() / "out", files))


# round trips


def clash(files: dict[str, bytes]) -> bool:
    """Whether one name is a folder of another."""
    return any(f"{a}/" in f"{b}/" and a != b and b.startswith(f"{a}/") for a in files for b in files)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees.filter(lambda files: not clash(files)))
def test_a_tree_comes_back_as_it_went_in(tmp_path: Path, files: dict[str, bytes]) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, files)
    again = Store(tmp_path / "store")
    assert again.tree(digest) is not None
    room = again.scratch()
    assert contents(again.view(digest, room / "view")) == files
    again.export(digest, room / "copy")
    assert contents(room / "copy") == files
    assert {name: again.read_file(digest, name) for name in files} == files
    assert put(again, files) == digest
    store.close()
    again.close()


def test_names_and_contents_make_the_digest(store: Store) -> None:
    different: list[dict[str, bytes]] = [{}, {"a": b""}, {"b": b""}, {"a": b"1"}, {"a/b": b"1"}, {"a": b"1", "b": b"1"}]
    assert len({put(store, files) for files in different}) == len(different)


def test_an_export_is_writable_and_apart_from_the_store(store: Store, tmp_path: Path) -> None:
    digest = put(store, FILES)
    store.export(digest, tmp_path / "copy")
    (tmp_path / "copy/config.json").write_bytes(b"changed")
    assert store.read_file(digest, "config.json") == b"{}"
    view = store.view(digest, tmp_path / "view")
    assert not (view / "config.json").stat().st_mode & 0o222, "what an action reads it cannot write"


def test_a_link_in_an_output_is_refused(store: Store) -> None:
    folder = fill(store.scratch() / "out", {"a": b"1"})
    (folder / "b").symlink_to("a")
    with pytest.raises(ActionError, match="not a plain file"):
        store.put_tree(folder)


def test_bytes_come_back_or_are_a_miss(store: Store) -> None:
    digest = store.put_bytes(b"text")
    assert store.get_bytes(digest) == b"text"
    path = store.object_path(digest)
    path.write_bytes(b"tixt")
    assert store.get_bytes(digest) is None
    path.unlink()
    assert store.get_bytes(digest) is None
    assert store.put_bytes(b"text") == digest
    assert store.get_bytes(digest) == b"text"


# damage


def damaged(data: bytes) -> Iterator[bytes]:
    """Every truncation, and every byte with its lowest, a middle or its highest bit turned."""
    for length in range(len(data)):
        yield data[:length]
    for at in range(len(data)):
        for bit in (0, 3, 7):
            yield data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


STRANGE = [
    *(b"null", b"[]", b"3", b'"x"', b"{}", b"\xff", b"\x00", b"[" * 100_000, b'{"files": 3}', b'{"files": {"a": 3}}'),
    *(b'{"files": {"a": ["x", 1e999]}}', b'{"files": {"\\ud800": ["x", 1]}}', b'{"files": {"a": [null, null]}}'),
]


def test_a_damaged_tree_is_a_miss(store: Store) -> None:
    digest = put(store, {"a": b"1", "b/c": b"23"})
    path = store.root / "trees" / digest[:2] / f"{digest}.json"
    whole = path.read_bytes()
    expected = store.tree(digest)
    for data in [*damaged(whole), *STRANGE]:
        path.write_bytes(data)
        assert Store(store.root).tree(digest) in (None, expected)
    path.write_bytes(whole)
    assert Store(store.root).tree(digest) == expected


def test_a_missing_or_cut_object_is_a_miss_until_it_is_put_again(store: Store) -> None:
    digest = put(store, FILES)
    entry = (store.tree(digest) or {})["deep/er/weights.bin"]
    path = store.object_path(entry.digest)
    for cut in (True, False):
        path.chmod(0o644)
        if cut:
            os.truncate(path, 3)
        else:
            path.unlink()
        fresh = Store(store.root)
        assert fresh.tree(digest) is None
        with pytest.raises(CacheDamage):
            fresh.view(digest, store.scratch() / "view")
        with pytest.raises(CacheDamage):
            fresh.export(digest, store.scratch() / "copy")
        assert put(store, FILES) == digest
        assert fresh.tree(digest) is not None, "a miss is asked again: another process may have repaired it"


ROWS = (("param", "steps", "3"),)
RECORD = Record("task.x/train", "train", "k" * 8, ROWS, "", 1.5, "2026-01-01T00:00:00", {"cpu": "x"})


def test_a_record_comes_back(store: Store) -> None:
    cache = ActionCache(store)
    record = Record(**{**RECORD.__dict__, "output": put(store, FILES)})
    assert cache.lookup(record.key) is None
    cache.publish(record)
    assert ActionCache(store).lookup(record.key) == record
    assert ActionCache(store).record("other") is None


def test_a_damaged_record_is_a_miss(store: Store) -> None:
    output = put(store, {"a": b"1"})
    ActionCache(store).publish(Record(**{**RECORD.__dict__, "output": output}))
    path = store.root / "actions" / "kk" / f"{RECORD.key}.json"
    whole = path.read_bytes()
    for data in [*damaged(whole), *STRANGE, whole.replace(b"1.5", b"1" + b"0" * 400)]:
        path.write_bytes(data)
        assert ActionCache(store).lookup(RECORD.key) is None, data


def test_a_record_of_before_there_were_seals_is_read(store: Store) -> None:
    output = put(store, {"a": b"1"})
    record = Record(**{**RECORD.__dict__, "output": output})
    ActionCache(store).publish(record)
    path = store.root / "actions" / "kk" / f"{RECORD.key}.json"
    data = json.loads(path.read_bytes())
    del data["seal"]
    path.write_text(json.dumps(data))
    assert ActionCache(store).lookup(RECORD.key) == record


texts = st.text(st.characters(codec="utf-8"), max_size=5)


@given(st.dictionaries(texts, texts, min_size=1))
def test_what_is_sealed_comes_back(value: dict[str, str]) -> None:
    assert unseal(seal(value)) == value
    assert json.loads(seal(value)).keys() == {*value, "seal"}


def test_a_record_without_its_output_is_a_miss(store: Store) -> None:
    cache = ActionCache(store)
    cache.publish(Record(**{**RECORD.__dict__, "output": put(store, FILES)}))
    shutil.rmtree(store.root / "trees")
    again = ActionCache(Store(store.root))
    assert again.lookup(RECORD.key) is None
    assert again.record(RECORD.key) is not None, "what it was made of can still be told"


def test_unreadable_json_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none") is None
    assert read_json(tmp_path) is None
    for data in (*STRANGE[5:8], b'{"a":[1e999]}', b'{"a":-1e999}', b'{"a":NaN}', b'{"a":Infinity}'):
        (tmp_path / "f").write_bytes(data)
        assert read_json(tmp_path / "f") is None


# rooms and processes

HOLDER = """
import sys, time
from pathlib import Path
from amybuild.cache.store import Store
store = Store(Path(sys.argv[1]))
(store.scratch() / "half").write_text("half")
lock = store.lock("k")
lock.acquire()
print("ready", flush=True)
time.sleep(60)
"""


def holder(root: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(amybuild.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_room_and_the_lock_of_a_killed_process_are_free_at_once(tmp_path: Path) -> None:
    dead, alive = holder(tmp_path / "s"), holder(tmp_path / "t")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        one, other = Store(tmp_path / "s"), Store(tmp_path / "t")
        assert len(list((tmp_path / "s/tmp").glob("*-*"))) == 2  # its folder and its lock
        one.scratch()
        other.scratch()
        halves = [sorted(p.name for p in root.rglob("half")) for root in (tmp_path / "s", tmp_path / "t")]
        assert halves == [[], ["half"]]
        assert one.lock("k").acquire(wait=False)
        assert not other.lock("k").acquire(wait=False)
        one.close()
        other.close()
        assert list((tmp_path / "s/tmp").iterdir()) == []
        assert len(list((tmp_path / "t/tmp").iterdir())) == 2
    finally:
        for process in (dead, alive):
            process.kill()
            process.communicate()


def test_somebody_elses_room_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "s/tmp/9-other.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    real = os.open

    def refuse(path: Any, *args: Any, **named: Any) -> int:
        if os.fspath(path) == os.fspath(lock):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        store = Store(tmp_path / "s")
        assert store.scratch().is_dir()
        assert lock.exists()
        store.close()
    store.scratch()
    assert not lock.exists(), "and a dead one of our own goes"
    store.close()


def test_many_threads_share_one_room_and_any_of_them_gives_it_back(tmp_path: Path) -> None:
    for _ in range(20):
        store = Store(tmp_path / "s")
        with ThreadPoolExecutor(8) as pool:
            found = [future.result() for future in [pool.submit(store.scratch) for _ in range(8)]]
        assert len(set(found)) == 8
        assert len({path.parent for path in found}) == 1
        store.close()
        assert list((tmp_path / "s/tmp").iterdir()) == []


def test_a_tree_listing_is_canonical(store: Store) -> None:
    digest = put(store, FILES)
    data = (store.root / "trees" / digest[:2] / f"{digest}.json").read_bytes()
    assert list(json.loads(data)["files"]) == sorted(FILES)
