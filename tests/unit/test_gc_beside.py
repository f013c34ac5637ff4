"""The collection beside builds that run, and one that is killed: what a process relies on is live."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import amybuild
from amybuild.cache.actions import ActionCache
from amybuild.cache.gc import collect
from amybuild.cache.store import Store
from amybuild.errors import ActionError, CacheDamage
from tests.unit.test_gc import Cache, files, key, make
from tests.unit.test_store import contents


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_what_a_living_process_holds_stays_and_goes_when_it_is_killed(cache: Cache) -> None:
    cache.make(1, 2, 3)
    script = f"""
import time
from pathlib import Path
from amybuild.cache.actions import ActionCache
from amybuild.cache.store import Store
store = Store(Path({os.fspath(cache.cache)!r}))
store.begin()
cache = ActionCache(store)
assert cache.lookup({key(1)!r}) and store.tree(cache.record({key(2)!r}).output)
print("ready", flush=True)
time.sleep(60)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(amybuild.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    whole = {number: cache.make(number)[f"a{number}/x"][1] for number in (1, 2)}
    collect(cache.cache, keep=0)
    assert cache.here() == {1}
    assert Store(cache.cache).tree(whole[2]), "a tree without its record"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    collect(cache.cache, keep=0)
    assert cache.files() == {}


def test_a_query_that_found_a_result_may_find_it_gone_later_and_a_build_may_not(cache: Cache) -> None:
    cache.make(1)
    store = Store(cache.cache)
    results = ActionCache(store)
    assert results.lookup(key(1))
    collect(cache.cache)
    assert results.lookup(key(1)) is None, "a plan holds nothing"
    cache.make(1)
    assert results.hold([key(1)])
    collect(cache.cache)
    assert results.lookup(key(1)), "a build does"
    store.close()
    collect(cache.cache)
    assert results.lookup(key(1)) is None


def worker(root: Path, seed: int, seconds: float, results: Path) -> None:
    """Builds that look up, make, rely on and read results for a while, as many as fit; nothing is in any history."""
    chance = random.Random(seed)
    counts = {"hit": 0, "made": 0, "build": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        store = Store(root)
        cache = ActionCache(store)
        store.begin()
        mine: dict[int, str] = {}
        for number in chance.sample(range(12), 5):
            record = cache.lookup(key(number))
            counts["hit" if record else "made"] += 1
            mine[number] = record.output if record else make(cache, number)[1]
            time.sleep(chance.random() / 500)
        for number, output in mine.items():
            view = store.view(output, store.scratch() / "view")
            assert contents(view) == files(number)
            found = cache.lookup(key(number))
            assert found is not None, "a record that is relied on stays too"
            assert found.output == output
        store.close()
        counts["build"] += 1
    results.write_text(json.dumps(counts))


def test_builds_and_collections_at_the_same_time_never_meet(tmp_path: Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    root = tmp_path / "cache"
    workers = [context.Process(target=worker, args=(root, i, 4.0, tmp_path / f"r{i}")) for i in range(3)]
    for one in workers:
        one.start()
    collections, freed = 0, 0
    while any(one.is_alive() for one in workers):
        found = collect(root, keep=0)
        collections, freed = collections + 1, freed + len(found.files)
        time.sleep(0.01)
    assert [one.exitcode for one in workers] == [0, 0, 0]
    counts = [json.loads((tmp_path / f"r{i}").read_text()) for i in range(3)]
    assert sum(c["hit"] for c in counts) > 10, "they did share results"
    assert freed > 10
    assert collections > 10
    collect(root, keep=0)
    assert not any(path.is_file() for kind in ("actions", "trees", "objects") for path in (root / kind).rglob("*"))


def test_a_killed_collection_leaves_misses_at_worst_and_the_next_one_finishes(cache: Cache) -> None:
    for at in range(1, 12):
        cache.make(*range(4))
        kept = cache.build("1", 9)
        killed_at(cache.cache, at)
        assert 9 in cache.here(), f"killed at the {at}. rename"
        for number in cache.here():
            assert cache.lookup(number)
        collect(cache.cache, keep=1)
        assert cache.here() == {9}
        assert not list((cache.cache / "tmp").iterdir())
        assert kept.actions


def killed_at(root: Path, at: int) -> None:
    """A collection in a process that dies at its `at`-th rename."""
    if (pid := os.fork()) == 0:
        try:
            left, real = [at], os.rename

            def rename(*args: object) -> None:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*args)  # type: ignore[arg-type]

            os.rename = rename  # type: ignore[assignment]
            collect(root, keep=1)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_what_a_running_build_holds_by_the_name_of_an_earlier_one_stays(tmp_path: Path) -> None:
    """One line for all results of a build: what a build after an edit relies on."""
    cache = Cache(tmp_path)
    record = cache.build("a", 1, 2)
    store = Store(cache.cache)
    store.begin()
    with store.guard():
        store.hold(f"build {cache.history.id} {record.hash}")
    cache.build("b", 3)
    collect(cache.cache, keep=1)
    assert cache.here() == {1, 2, 3}
    store.close()
    collect(cache.cache, keep=1)
    assert cache.here() == {3}
    store.begin()
    with store.guard():
        store.hold(f"build {cache.history.id} {'f' * 64}")
    with pytest.raises(CacheDamage):  # nobody can say what it is that is held
        collect(cache.cache, keep=1)
    store.close()


def test_a_disk_that_fails_before_anything_is_taken_is_a_clean_error(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.make(1)
    before = cache.files()

    def broken(handle: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(ActionError, match="cannot write"):
            collect(cache.cache, keep=0)
    assert cache.files() == before
    assert cache.here() == {1}
