"""The check of a cache: it names exactly what is damaged and whom it hits, and its repair leaves nothing but misses."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.cache.fsck import Report, check
from amybuild.cache.gc import collect
from amybuild.cache.history import History
from amybuild.cache.layered import Shared
from amybuild.cache.remote import Folder
from amybuild.cache.store import Store
from tests.unit.test_gc import Cache, key


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    found = Cache(tmp_path)
    found.build("1", 1, 2)
    found.build("2", 2, 3)
    found.history.name("best", found.history.log()[0][1])
    return found


def run(cache: Cache, *, repair: bool = False, shared: Shared | None = None) -> Report:
    store = Store(cache.cache, shared)
    try:
        return check(store, repair=repair)
    finally:
        store.close()


def parts(cache: Cache, *kinds: str) -> list[Path]:
    return sorted(path for kind in kinds for path in (cache.cache / kind).rglob("*") if path.is_file())


def found(report: Report) -> set[tuple[str, str, str]]:
    return {(damage.kind, damage.name, damage.what) for damage in report.damages}


KINDS = {"objects": "object", "trees": "tree", "actions": "action", "builds": "build"}


def expected(cache: Cache, path: Path) -> tuple[str, str]:
    kind = path.relative_to(cache.cache).parts[0]
    return KINDS[kind], path.name if kind == "objects" else path.stem


def test_a_clean_cache_is_clean_and_nothing_is_written(cache: Cache) -> None:
    collect(cache.cache)
    before = {path: path.stat().st_mtime_ns for path in cache.cache.rglob("*")}
    told: list[tuple[int, int]] = []
    report = check(Store(cache.cache), told=lambda done, total: told.append((done, total)))
    assert report.clean
    assert not report.lost
    assert report.objects == len(parts(cache, "objects")) == len(told)
    assert told[-1][0] == told[-1][1] == report.bytes
    assert {path: path.stat().st_mtime_ns for path in cache.cache.rglob("*")} == before


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_it_names_exactly_what_was_flipped(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    cache = Cache(tmp_path_factory.mktemp("fsck"))
    cache.build("1", 1, 2)
    cache.build("2", 2, 3)
    files = parts(cache, *KINDS)
    chosen = data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=4, unique=True))
    for path in chosen:
        whole = bytearray(path.read_bytes())
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.chmod(0o644)
        path.write_bytes(whole)
    report = run(cache)
    assert found(report) == {(*expected(cache, path), "damaged") for path in chosen}
    repaired = run(cache, repair=True)
    assert found(repaired) == found(report)
    assert all(damage.done for damage in repaired.damages)
    assert len(list((cache.cache / "quarantine").iterdir())) == len(chosen)
    after = run(cache)
    assert after.clean, found(after)
    for number in range(1, 4):  # misses are made again, the rest is as it was
        cache.lookup(number)
        cache.make(number)
        assert cache.lookup(number)
    assert run(cache).clean


@pytest.mark.parametrize("how", ["cut", "emptied", "deleted"])
@pytest.mark.parametrize("kind", ["objects", "trees", "actions", "builds"])
def test_what_is_cut_or_gone_is_found_and_mended(cache: Cache, kind: str, how: str) -> None:
    for path in parts(cache, kind):
        again = Cache(cache.root / f"copy-{path.name[:12]}")
        shutil.rmtree(again.cache, ignore_errors=True)
        shutil.copytree(cache.cache, again.cache)
        again.history = History(again.cache, cache.project)
        victim = again.cache / path.relative_to(cache.cache)
        victim.chmod(0o644)
        if how == "deleted":
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[:-3] if how == "cut" else b"")
        report = run(again)
        what = "missing" if how == "deleted" else "damaged"
        name = expected(again, victim)
        orphan = kind == "actions" or name[1] in {d for n in (1, 2, 3) for d in _node_texts(cache, n)}
        if how == "deleted" and orphan:  # nobody names a record; a node's text is for explanations only
            assert report.clean
            continue
        assert found(report) == {(*name, what)}
        run(again, repair=True)
        assert run(again).clean


def _node_texts(cache: Cache, number: int) -> list[str]:
    from tests.unit.test_gc import nodes

    return nodes(cache, number)


def test_it_says_which_actions_builds_and_pins_are_hit(cache: Cache) -> None:
    store = Store(cache.cache)
    for number, actions, names in ((1, ("a1/x",), ("best",)), (2, ("a2/x",), ("best",)), (3, ("a3/x",), ())):
        digest = _own(store, number)
        path = store.object_path(digest)
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-1] + b"?")
        (damage,) = run(cache).damages
        assert damage.actions == actions
        assert damage.pins == names
        assert len(damage.builds) == (2 if number == 2 else 1)
        path.write_bytes(whole)
    assert run(cache).clean


def _own(store: Store, number: int) -> str:
    from amybuild.cache.actions import ActionCache

    record = ActionCache(store).record(key(number))
    assert record is not None
    return (store.tree(record.output) or {})["own"].digest


def test_a_named_build_that_lost_a_result_is_beyond_repair_and_another_is_not(cache: Cache) -> None:
    store = Store(cache.cache)
    last = store.object_path(_own(store, 3))
    last.unlink()
    report = run(cache, repair=True)
    assert report.damages
    assert not report.lost
    store.object_path(_own(store, 1)).unlink()
    assert run(cache).lost == [f"best ({cache.history.names()['best'][:12]})"]
    assert run(cache, repair=True).lost
    cache.make(1, 2, 3)
    assert not run(cache).lost, "a build of the same inputs brings it back"


def test_a_lost_state_is_made_again_from_the_builds(cache: Cache) -> None:
    log = cache.history.log()
    cache.history.state_path.write_bytes(b'{"schema":1,"log":[[')
    (damage,) = run(cache).damages
    assert damage.kind == "state"
    assert run(cache, repair=True).damages[0].done == "set aside, made again from the builds"
    again = History(cache.cache, cache.project)
    assert again.log() == log
    assert again.last_keys() == {"a2/x": key(2), "a3/x": key(3)}
    assert run(cache).clean
    collect(cache.cache, keep=1)
    assert cache.here() == {2, 3}


def test_damage_is_fetched_back_from_the_shared_store(cache: Cache, tmp_path: Path) -> None:
    shutil.copytree(cache.cache, tmp_path / "shared")
    chance = random.Random(7)
    objects, trees = parts(cache, "objects"), parts(cache, "trees")
    texts = {digest for number in (1, 2, 3) for digest in _node_texts(cache, number)}
    for path in [*objects, *trees]:
        whole = bytearray(path.read_bytes())
        whole[chance.randrange(len(whole))] ^= 4
        path.chmod(0o644)
        path.write_bytes(whole)
    report = run(cache, repair=True, shared=Shared(cache.cache, "file:///x", lambda: Folder(tmp_path / "shared")))
    assert len(report.damages) == len(objects) + len(trees)
    assert not report.lost
    assert all("fetched" in damage.done for damage in report.damages if damage.kind == "tree")
    with_store = Store(cache.cache, Shared(cache.cache, "file:///x", lambda: Folder(tmp_path / "shared")))
    assert all(with_store.tree(path.stem) for path in trees), "their objects come when they are needed"
    assert texts


def test_a_check_beside_builds_and_collections_sees_no_damage(tmp_path: Path) -> None:
    import multiprocessing

    from tests.unit.test_gc_beside import worker

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=worker, args=(tmp_path / "c", i, 3.0, tmp_path / f"r{i}")) for i in range(2)]
    workers.append(context.Process(target=collector, args=(tmp_path / "c", 3.0)))
    for one in workers:
        one.start()
    checks = 0
    while any(one.is_alive() for one in workers):
        report = check(Store(tmp_path / "c"))
        assert report.clean, found(report)
        checks += 1
    assert [one.exitcode for one in workers] == [0, 0, 0]
    assert checks > 5


def collector(root: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        collect(root, keep=0)
        time.sleep(0.005)


def test_a_file_that_cannot_be_read_is_damaged(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import errno

    victim = parts(cache, "objects")[0]
    real = builtins.open

    def opened(path: object, *args: object, **named: object) -> object:
        if path == victim:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **named)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        report = run(cache)
    assert ("object", victim.name, "damaged") in found(report)
