"""An object is hashed once per change of its stat: no flipped bit goes unnoticed, nothing whole is hashed twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.cache import store as store_module
from amybuild.cache import verify
from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.disk import sweep_parts, write_atomic
from amybuild.cache.store import Entry, Store, parse_listing, safe_name, tree_digest
from amybuild.digest import canonical
from amybuild.errors import ActionError, CacheDamage
from tests.unit.test_store import FILES, RECORD, contents, fill, put


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed to check them."""
    found: list[str] = []
    real: Callable[..., str] = verify.digest_file

    def digest_file(path: str) -> str:
        found.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(verify, "digest_file", digest_file)
    return found


def flip(path: Path, at: int = 0) -> None:
    """Change one bit; size stays, and so does the time of modification."""
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def settle() -> None:
    time.sleep(verify.TICK / 1e9)


def test_what_did_not_change_is_hashed_once_by_all_processes_together(tmp_path: Path, hashed: list[str]) -> None:
    first = Store(tmp_path / "s")
    digest = put(first, FILES)
    first.close()
    settle()
    objects = len({*FILES.values()})
    for expected in (objects, 0, 0):
        hashed.clear()
        again = Store(tmp_path / "s")
        assert again.tree(digest)
        assert again.tree(digest)
        assert len(hashed) == expected
        again.close()


def test_where_much_is_known_a_few_small_objects_are_hashed_and_more_are_looked_up(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s")
    paths = {digest: store.object_path(digest) for digest in (store.put_bytes(f"{n}".encode()) for n in range(20))}
    store.close()
    settle()
    known = verify.Verified(store.root / "verified")
    assert all(known.whole(digest, os.fspath(path), verify.stat_of(path)) for digest, path in paths.items())
    known.save()
    monkeypatch.setattr(verify, "_MUCH", 1000)
    hashed.clear()
    again = verify.Verified(known.path)
    assert all(again.whole(digest, os.fspath(path), verify.stat_of(path)) for digest, path in paths.items())
    assert len(hashed) == verify._FEW
    digest, path = paths.popitem()
    flip(path)
    assert not verify.Verified(known.path).whole(digest, os.fspath(path), verify.stat_of(path))


def test_a_query_writes_nothing(tmp_path: Path) -> None:
    first = Store(tmp_path / "s")
    digest = put(first, FILES)
    first.close()
    settle()
    (tmp_path / "s/verified").unlink(missing_ok=True)
    before = sorted((tmp_path / "s").rglob("*"))
    store = Store(tmp_path / "s")
    assert store.tree(digest)
    assert store.read_file(digest, "config.json") == b"{}"
    flip(store.object_path(store.tree(digest)["deep/er/weights.bin"].digest))  # type: ignore[index]
    assert Store(tmp_path / "s").tree(digest) is None
    assert before == sorted((tmp_path / "s").rglob("*"))


@pytest.mark.parametrize("old", [False, True], ids=["just put", "remembered"])
def test_a_flipped_bit_is_a_miss_is_told_once_and_is_set_aside(tmp_path: Path, old: bool) -> None:
    store = Store(tmp_path / "s")
    digest = put(store, FILES)
    cache = ActionCache(store)
    cache.publish(Record(**{**RECORD.__dict__, "output": digest}))
    if old:
        store.close()
        settle()
        looked = Store(store.root)
        assert looked.tree(digest)
        looked.close()
    entry = (store.tree(digest) or {})["deep/er/weights.bin"]
    flip(store.object_path(entry.digest), 700)
    found = Store(store.root)
    assert ActionCache(found).lookup(RECORD.key) is None
    assert found.tree(digest) is None
    assert len(found.notes) == 1
    assert entry.digest[:12] in found.notes[0]
    with pytest.raises(CacheDamage, match="no longer whole"):
        found.view(digest, tmp_path / "view")
    with pytest.raises(CacheDamage):
        found.export(digest, tmp_path / "copy")
    assert store.tree(digest) is None, "who has seen it whole notices too"
    found.scratch()
    (aside,) = (store.root / "quarantine").iterdir()
    assert aside.name.startswith(entry.digest)
    assert put(found, FILES) == digest
    assert ActionCache(found).lookup(RECORD.key) is not None
    assert contents(found.view(digest, tmp_path / "again")) == FILES
    found.close()
    store.close()


def test_a_flip_while_the_result_is_held_is_noticed_by_who_reads_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = put(store, FILES)
    assert store.tree(digest)
    flip(store.object_path((store.tree(digest) or {})["config.json"].digest))
    for read in (lambda: store.read_file(digest, "config.json"), lambda: store.view(digest, tmp_path / "view")):
        with pytest.raises(CacheDamage):
            read()
    store.close()


def test_putting_over_a_damaged_object_mends_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = store.put_bytes(b"a text of a node")
    flip(store.object_path(digest))
    assert store.get_bytes(digest) is None
    assert Store(store.root).put_bytes(b"a text of a node") == digest
    assert store.get_bytes(digest) == b"a text of a node"
    store.close()


def test_a_large_object_is_not_hashed_again_after_it_was_put(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_LARGE", 2000)
    store = Store(tmp_path / "s")
    digest = put(store, FILES)
    store.close()
    large = (store.tree(digest) or {})["deep/er/weights.bin"]
    hashed.clear()
    assert Store(store.root).tree(digest)
    assert large.digest not in hashed
    flip(store.object_path(large.digest), 9)
    assert Store(store.root).tree(digest) is None, "and yet a change after it shows"


def lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line]


def test_a_torn_or_damaged_memory_costs_a_hash_and_never_trusts_what_is_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = put(store, {"a": b"one", "b": b"two"})
    store.close()
    settle()
    for _ in range(2):
        looked = Store(store.root)
        assert looked.tree(digest)
        looked.close()
    path = store.root / "verified"
    whole = path.read_bytes()
    assert len(lines(path)) == 2
    good = {
        entry.digest: verify.stat_of(store.object_path(entry.digest)) for entry in (store.tree(digest) or {}).values()
    }
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        memory = verify.Verified(path)
        memory.trust("f" * 64, (1, 2, 3, 4))
        memory.save()
        again = verify.Verified(path)
        assert again.stamp("f" * 64) == (1, 2, 3, 4), "what is written after a torn line is whole"
        assert all(again.stamp(name) == stat or again.stamp(name) not in good.values() for name, stat in good.items())
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert Store(store.root).tree(digest), "a damaged memory is no damage"


def test_many_writers_of_the_memory_lose_nothing(tmp_path: Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=remember, args=(tmp_path / "verified", i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = verify.Verified(tmp_path / "verified")
    assert all(found.stamp(f"{i:032x}{number:032x}") == (i, number, 0, 0) for i in range(4) for number in range(100))


def remember(path: Path, writer: int) -> None:
    for number in range(100):
        memory = verify.Verified(path)
        memory.trust(f"{writer:032x}{number:032x}", (writer, number, 0, 0))
        memory.save()


# names of files in trees

BAD = ["", ".", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", "a\0b", "a\\b", "..\\x", "./a"]


@pytest.mark.parametrize("name", BAD)
def test_a_listing_that_leads_out_of_its_folder_is_a_miss(name: str) -> None:
    files = {name: Entry("0" * 64, 1)}
    data = {"schema": 1, "files": {name: ["0" * 64, 1]}}
    assert parse_listing(tree_digest(files), data) is None
    good = {"a.b/..c": Entry("0" * 64, 1)}
    assert parse_listing(tree_digest(good), {"schema": 1, "files": {"a.b/..c": ["0" * 64, 1]}}) == good


def test_a_listing_with_a_strange_digest_is_a_miss() -> None:
    for strange in ("../../x", "0" * 63, "G" * 64, "0" * 64 + "\n"):
        files = {"a": Entry(strange, 1)}
        assert parse_listing(tree_digest(files), {"schema": 1, "files": {"a": [strange, 1]}}) is None


def test_an_output_with_a_name_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = fill(store.scratch() / "out", {"a\\b": b"1"})
    with pytest.raises(ActionError, match="cannot be kept"):
        store.put_tree(folder)
    store.close()


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.integers(0, 9), max_size=6), st.data())
def test_the_digest_of_a_tree_does_not_depend_on_order(names: dict[str, int], data: st.DataObject) -> None:
    files = {name: Entry(f"{size:064x}", size) for name, size in names.items() if safe_name(name)}
    shuffled = data.draw(st.permutations(sorted(files)))
    assert tree_digest(files) == tree_digest({name: files[name] for name in shuffled})


# half-written files


def test_what_a_killed_writer_left_is_swept_by_the_next_and_a_living_ones_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".state.json.0123456789ab"
    left.write_bytes(b"half")
    other = tmp_path / ".state.json.swp"
    other.write_bytes(b"an editor's")
    import fcntl

    living = tmp_path / ".state.json.ba9876543210"
    with open(living, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(tmp_path / "state.json", b"new")
        assert sorted(p.name for p in tmp_path.iterdir()) == [living.name, other.name, "state.json"]
    sweep_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "state.json"]


def test_a_room_sweeps_the_half_written_files_of_the_dead(tmp_path: Path) -> None:
    (tmp_path / "s/tmp").mkdir(parents=True)
    (tmp_path / "s/tmp/.abc.0123456789ab").write_bytes(b"half")
    store = Store(tmp_path / "s")
    store.scratch()
    assert not list((tmp_path / "s/tmp").glob(".*"))
    store.close()
    assert list((tmp_path / "s/tmp").iterdir()) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["a", "b/c", "d"]), st.binary(min_size=1, max_size=9), min_size=1), st.data())
def test_any_flip_in_any_object_is_a_miss(tmp_path: Path, files: dict[str, bytes], data: st.DataObject) -> None:
    store = Store(tmp_path / "s")
    digest = put(store, files)
    name = data.draw(st.sampled_from(sorted(files)))
    path = store.object_path((store.tree(digest) or {})[name].digest)
    flip(path, data.draw(st.integers(0, 8)))
    assert store.tree(digest) is None
    assert Store(store.root).tree(digest) is None
    assert put(store, files) == digest
    assert canonical(sorted(contents(store.view(digest, store.scratch() / "view")))) == canonical(sorted(files))
    store.close()
