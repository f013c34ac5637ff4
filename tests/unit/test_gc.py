"""The collection: what is reachable stays, what is not goes with its record, and what a process relies on is live."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.gc import Collected, collect
from amybuild.cache.history import BuildRecord, History
from amybuild.cache.store import Store
from amybuild.errors import CacheDamage
from amybuild.personafile.lock import Account, lock_of, render
from tests.unit.test_store import contents, fill

NODES = [b"one node", b"another", b"third"]


class Cache:
    """A cache with one project, and results that are small functions of a number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.project.mkdir(parents=True, exist_ok=True)
        self.cache = root / "cache"
        self.history = History(self.cache, self.project)

    def make(self, *numbers: int) -> dict[str, tuple[str, str]]:
        """Publish results by a process that is gone then; action -> (key, output)."""
        store = Store(self.cache)
        try:
            return {f"a{n}/x": make(ActionCache(store), n) for n in numbers}
        finally:
            store.close()

    def build(self, name: str, *numbers: int) -> BuildRecord:
        pairs = self.make(*numbers)
        record = BuildRecord(f"{name:0>64}", "p", f"2026-01-01T00:00:{len(self.history.log()):02}", pairs, "g", "b")
        self.history.add(record)
        return record

    def lookup(self, number: int) -> bool:
        """Whether a new process finds the result, and then finds it whole."""
        store = Store(self.cache)
        record = ActionCache(store).lookup(key(number))
        if record is None:
            return False
        assert contents(store.view(record.output, store.scratch() / "view")) == files(number)
        store.close()
        return True

    def here(self) -> set[int]:
        return {number for number in range(22) if self.lookup(number)}

    def collect(self, **options: int | bool | None) -> Collected:
        """Run it twice: what the dry run lists is what goes, and nothing else."""
        before = self.files()
        dry = collect(self.cache, **options, dry_run=True)  # type: ignore[arg-type]
        assert self.files() == before
        run = collect(self.cache, **options)  # type: ignore[arg-type]
        assert (run.files, run.records, run.freed) == (dry.files, dry.records, dry.freed)
        after = self.files()
        assert before.keys() - after.keys() == set(run.files)
        assert run.freed == sum(before[name] for name in run.files)
        assert not list((self.cache / "tmp").iterdir())
        return run

    def files(self) -> dict[str, int]:
        kinds = ("actions", "trees", "objects", "quarantine")
        found = [path for kind in kinds for path in (self.cache / kind).rglob("*") if path.is_file()]
        return {path.relative_to(self.cache).as_posix(): path.stat().st_size for path in found}


def key(number: int) -> str:
    return f"{number:064x}"


def files(number: int) -> dict[str, bytes]:
    """Three files: one of its own, one shared with a few others, one that all have."""
    return {"own": b"%d" % number * 50, "deep/some": b"%d" % (number % 3), "all": b"same"}


def make(cache: ActionCache, number: int) -> tuple[str, str]:
    output = cache.store.put_tree(fill(cache.store.scratch() / "out", files(number)))
    node = cache.store.put_bytes(NODES[number % 3])
    row = ("node", f"node-{number % 3}", node)
    cache.publish(Record(f"a{number}/x", "r", key(number), (row,), output, 1.0, "2026-01-01T00:00:00"))
    return key(number), output


def locked(build: BuildRecord) -> str:
    account = Account(build.hash, build.persona, "b", "g", {})
    return render(lock_of(build.actions, account, None))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


# roots


def test_without_any_root_everything_goes(cache: Cache) -> None:
    cache.make(1, 2, 3)
    found = cache.collect()
    assert {action for action, _ in found.records} == {"a1/x", "a2/x", "a3/x"}
    assert cache.files() == {}
    assert cache.collect().freed == 0


def test_the_last_builds_stay_and_what_they_share_with_others(cache: Cache) -> None:
    for number in range(5):
        cache.build(f"{number}", number, 20)
    cache.collect(keep=2)
    assert cache.here() == {3, 4, 20}
    assert all((cache.cache / "objects" / d[:2] / d).exists() for d in nodes(cache, 3, 4)), "texts for explanations"


def nodes(cache: Cache, *numbers: int) -> list[str]:
    found = [ActionCache(Store(cache.cache)).record(key(number)) for number in numbers]
    return [row[2] for record in found if record for row in record.manifest]


def test_names_locks_products_last_keys_and_the_newest_build_stay(cache: Cache) -> None:
    builds = [cache.build(f"{number}", number) for number in range(6)]
    cache.history.name("best", builds[0].hash)
    (cache.project / "Personafile.lock").write_text(locked(builds[1]))
    cache.history.set_product(cache.project / "dist/p", builds[2], {"f": [1]})
    cache.history.note({"a3/x": key(3)})
    cache.collect(keep=0)
    assert cache.here() == {0, 1, 2, 3, 5}


def test_both_sides_of_a_conflict_in_a_lock_stay_and_another_tools_lock_means_nothing(cache: Cache) -> None:
    one, two, _ = (cache.build(f"{number}", number) for number in range(3))
    sides = [locked(b) for b in (one, two)]
    text = f"<<<<<<< ours\n{sides[0]}=======\n{sides[1]}>>>>>>> theirs\n"
    (cache.project / "Personafile.lock").write_text(text)
    (cache.project / "poetry.lock").write_bytes(b"\xff\xfe")
    cache.collect(keep=0)
    assert cache.here() == {0, 1, 2}


def test_a_pin_of_a_project_on_another_machine_stays_and_a_deleted_lock_does_not(cache: Cache) -> None:
    one, two, _ = (cache.build(f"{number}", number) for number in range(3))
    cache.history.pin(Path("/not/on/this/machine/Personafile.lock"), one.hash)
    cache.history.pin(cache.project / "deleted.lock", two.hash)
    cache.collect(keep=0)
    assert cache.here() == {0, 2}


def test_the_builds_of_every_project_of_the_cache_count(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path)
    other.history = History(cache.cache, tmp_path / "elsewhere")
    cache.build("1", 1)
    other.build("2", 2)
    cache.make(3)
    cache.collect(keep=1)
    assert cache.here() == {1, 2}


@pytest.mark.parametrize("what", ["state", "build"])
def test_history_that_cannot_be_read_stops_it(cache: Cache, what: str) -> None:
    build = cache.build("1", 1)
    path = cache.history.state_path if what == "state" else cache.history.builds_path / f"{build.hash}.json"
    path.write_bytes(path.read_bytes()[:-9])
    before = cache.files()
    with pytest.raises(CacheDamage, match="cannot be read") as error:
        collect(cache.cache)
    assert "fsck --repair" in str(error.value)
    assert cache.files() == before


def test_a_lost_state_costs_no_build(cache: Cache) -> None:
    for number in range(3):
        cache.build(f"{number}", number)
    cache.history.state_path.unlink()
    cache.collect(keep=2)
    assert cache.here() == {1, 2}


def test_what_was_set_aside_and_what_a_finished_training_left_goes(cache: Cache) -> None:
    cache.build("1", 1)
    (cache.cache / "quarantine").mkdir()
    (cache.cache / "quarantine/x.1").write_bytes(b"damaged")
    for number in (1, 2, 3):
        (cache.cache / "checkpoints" / key(number)).mkdir(parents=True)
    os.utime(cache.cache / "checkpoints" / key(3), (1e9, 1e9))
    collect(cache.cache)
    assert not list((cache.cache / "quarantine").iterdir())
    left = [path.name for path in (cache.cache / "checkpoints").iterdir()]
    assert left == [key(2)], "it is not finished, and somebody may come back to it"


# size


def test_with_a_size_what_was_used_last_stays(cache: Cache) -> None:
    cache.build("9", 9)
    cache.make(1, 2, 3)
    for number, when in ((1, 30), (2, 10), (3, 20)):
        os.utime(cache.cache / "actions" / key(number)[:2] / f"{key(number)}.json", (when, when))
    total = sum(cache.files().values())
    assert cache.collect(max_size=total).freed == 0
    cache.collect(max_size=total - 1)
    assert cache.here() == {1, 3, 9}
    left = cache.collect(max_size=sum(cache.files().values()) - 1)
    assert cache.here() == {1, 9} or left.kept <= total
    found = cache.collect(max_size=10)
    assert cache.here() == {9}
    assert "more than 10" in found.notes[0]


def test_a_result_that_is_used_again_counts_as_new(cache: Cache) -> None:
    cache.make(1, 2)
    for number in (1, 2):
        os.utime(cache.cache / "actions" / key(number)[:2] / f"{key(number)}.json", (number, number))
    store = Store(cache.cache)
    store.begin()
    assert ActionCache(store).lookup(key(1))
    store.close()
    cache.collect(max_size=sum(cache.files().values()) - 1)
    assert cache.here() == {1}


# laws


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 7), min_size=1, max_size=4), max_size=5), st.integers(0, 4), st.data())
def test_what_is_reachable_stays_and_a_build_after_it_comes_out_the_same(
    tmp_path_factory: pytest.TempPathFactory, builds: list[set[int]], keep: int, data: st.DataObject
) -> None:
    cache = Cache(tmp_path_factory.mktemp("gc"))
    made = [cache.build(f"{i}", *sorted(numbers)) for i, numbers in enumerate(builds)]
    cache.make(*data.draw(st.sets(st.integers(0, 9), max_size=4)))
    named = data.draw(st.sets(st.sampled_from(range(len(made))), max_size=2)) if made else set()
    for i in named:
        cache.history.name(f"n{i}", made[i].hash)
    cache.collect(keep=keep)
    roots = {i for i in range(len(made)) if i >= len(made) - max(keep, 1)} | named
    assert cache.here() == {number for i in roots for number in builds[i]}
    for number in range(8):
        again = cache.make(number)[f"a{number}/x"]
        assert all(pair == again for build in made for name, pair in build.actions.items() if name == f"a{number}/x")


def test_numbers() -> None:
    shared: Iterable[bytes] = files(1).values()
    assert len({*shared, *files(4).values()}) == 4, "results share objects, or these tests show nothing"
