"""The lock file: what is written reads back, sorted; edits of different targets merge; damage is a `PinError`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.errors import PinError
from amybuild.personafile.lock import Account, Lock, lock_of, parse, render, shared

FIXTURE = HealthCheck.function_scoped_fixture
hexes = st.text("0123456789abcdef", min_size=8, max_size=8)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
targets = st.from_regex(r"(task|steer|base)\.[A-Za-z0-9][A-Za-z0-9_-]{0,6}", fullmatch=True)
steps = st.sampled_from(["corpus", "train", "verify", "import"])
pairs = st.tuples(hexes, hexes)
pins = st.dictionaries(st.builds("{}/{}".format, targets, steps), pairs, max_size=5)
tops = st.dictionaries(st.sampled_from(["checkpoint/link", "persona/verify"]), pairs)
accounts = st.builds(Account, hash=hexes, persona=hexes, base=hexes, graph=hexes, pins=tops, variant=names, name=names)
locks = st.builds(Lock, pins, st.dictionaries(targets | st.just("checkpoint"), accounts, max_size=3))
TOP = {"checkpoint/link": ("3" * 8, "4" * 8), "persona/verify": ("5" * 8, "6" * 8)}
ACCOUNT = Account("b" * 8, "tess", "a" * 8, "c" * 8, TOP, name="good")
PINS = {"task.x/train": ("1" * 8, "2" * 8), "steer.y/texts": ("7" * 8, "8" * 8)}
LOCK = Lock(PINS, {"checkpoint": ACCOUNT})


@settings(suppress_health_check=[FIXTURE], deadline=None)
@given(locks)
def test_a_lock_reads_back(tmp_path: Path, lock: Lock) -> None:
    (tmp_path / "l").write_text(render(lock))
    assert parse(tmp_path / "l") == lock


def test_the_order_of_actions_does_not_show() -> None:
    turned = Lock(dict(reversed(list(PINS.items()))), LOCK.accounts)
    assert render(LOCK) == render(turned)
    headers = [line for line in render(LOCK).splitlines() if line.startswith("[target")]
    assert headers == sorted(headers)
    assert len(headers) == 3


def test_what_is_made_from_several_targets_is_in_the_account() -> None:
    whole = {**PINS, **TOP, "task.sum/combine": ("9", "9"), "task.sum/verify": ("9", "9")}
    assert set(shared(whole)) == {*TOP, "task.sum/combine", "task.sum/verify"}


# merging

TARGETS = [f"task.t{i}" for i in range(6)]


def build(state: dict[str, int]) -> tuple[dict[str, tuple[str, str]], Account]:
    """The pins and the account of a build in which each target is at some version."""
    pins = {f"{target}/{step}": (f"k{n}", f"o{n}") for target, n in state.items() for step in ("corpus", "train")}
    top = {"checkpoint/link": (f"{state}", f"{state}")}
    return {**pins, **top}, Account(f"hash of {state}", "tess", "b", f"graph of {state}", top)


def after(before: Lock | None, *states: dict[str, int]) -> Lock:
    for state in states:
        before = lock_of(*build(state), before)
    assert before is not None
    return before


def merge(folder: Path, base: Lock, ours: Lock, theirs: Lock) -> tuple[int, str]:
    """git's three-way merge of the texts: how many conflicts, and what comes out."""
    for name, lock in (("base", base), ("ours", ours), ("theirs", theirs)):
        (folder / name).write_text(render(lock))
    command = ["git", "merge-file", "-p", "ours", "base", "theirs"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@settings(suppress_health_check=[FIXTURE], deadline=None, max_examples=40)
@given(data=st.data())
def test_edits_of_different_targets_merge(tmp_path: Path, data: st.DataObject) -> None:
    """Two branches, each of some builds that touch only its own targets: git merges, and every pin is there."""
    owner = data.draw(st.lists(st.sampled_from("ab-"), min_size=len(TARGETS), max_size=len(TARGETS)))
    start = dict.fromkeys(TARGETS, 0)
    base = after(None, start, *([start | {"task.t3": 7}] if data.draw(st.booleans()) else []))
    state = dict(start) | ({"task.t3": 7} if base.pins["task.t3/train"] == ("k7", "o7") else {})
    ends, locks = [], []
    for branch, first in (("a", 10), ("b", 50)):
        own, now, lock = [t for t, o in zip(TARGETS, owner, strict=True) if o == branch], dict(state), base
        for step in range(data.draw(st.integers(0, 3))):
            for target in data.draw(st.lists(st.sampled_from(own), max_size=2)) if own else []:
                now[target] = data.draw(st.sampled_from([first + step, state[target]]))
            lock = after(lock, now)
        ends.append(now)
        locks.append(lock)
    conflicts, text = merge(tmp_path, base, *locks)
    assert conflicts == 0, text
    (tmp_path / "merged").write_text(text)
    merged = parse(tmp_path / "merged")
    both = {t: a if a != state[t] else b for t, a, b in zip(TARGETS, *(e.values() for e in ends), strict=True)}
    pins, account = build(both)
    assert merged.pins == {id: pair for id, pair in pins.items() if id not in account.pins}
    assert all(
        one.hash in {build(s)[1].hash for s in [*ends, state, start]} for one in merged.accounts.values()
    ) or all(lock.accounts for lock in locks)


def test_a_new_target_on_one_branch_and_an_edit_beside_it_on_the_other_merge(tmp_path: Path) -> None:
    start = {"task.a": 0, "task.c": 0}
    base = after(None, start)
    for edited in ("task.a", "task.c"):
        conflicts, text = merge(tmp_path, base, after(base, start | {"task.b": 1}), after(base, start | {edited: 2}))
        assert conflicts == 0, text


def test_both_branches_changed_one_target_or_the_link_and_git_says_so(tmp_path: Path) -> None:
    start = {"task.a": 0, "task.b": 0}
    base = after(None, start)
    conflicts, text = merge(tmp_path, base, after(base, start | {"task.a": 1}), after(base, start | {"task.a": 2}))
    assert conflicts == 1
    (tmp_path / "l").write_text(text)
    with pytest.raises(PinError, match="conflict marks"):
        parse(tmp_path / "l")


def test_the_account_goes_to_what_changed_and_back() -> None:
    start = {"task.a": 0, "task.b": 0}
    base = after(None, start)
    assert set(base.accounts) == {"checkpoint"}
    edited = after(base, start | {"task.b": 1})
    assert set(edited.accounts) == {"checkpoint", "task.b"}
    assert edited.accounts["task.b"].hash != base.accounts["checkpoint"].hash
    assert after(edited, start) == base
    assert after(edited, start | {"task.b": 1}) == edited


# damage


def test_a_cut_lock_is_an_error_or_pins_less(tmp_path: Path) -> None:
    text = render(LOCK).encode()
    for length in range(len(text)):
        (tmp_path / "l").write_bytes(text[:length])
        try:
            found = parse(tmp_path / "l")
        except PinError:
            continue
        assert set(found.pins.items()) <= set(PINS.items())


@pytest.mark.parametrize(
    "text",
    [
        *("", "[build]\n", "build = 3\n", "schema = 2\ntarget = [1]\n", 'schema = 2\ntarget.x.build.hash = "a"\n'),
        *('schema = 2\ntarget.x.y = { key = 1, output = "b" }\n', render(LOCK) + '[target."z"]\nz = 3\n'),
        render(LOCK).replace('build.persona = "tess"', 'build.persona = "../tess"'),
        render(LOCK).replace('build.graph = "', 'build.graph = 3 # "'),
    ],
)
def test_damage_is_a_pin_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "l").write_text(text)
    with pytest.raises(PinError, match="cannot be read"):
        parse(tmp_path / "l")


def test_another_schema_and_no_lock_are_told(tmp_path: Path) -> None:
    (tmp_path / "l").write_text(render(LOCK).replace("schema = 2", "schema = 3"))
    with pytest.raises(PinError, match="schema 3"):
        parse(tmp_path / "l")
    (tmp_path / "l").write_text('[build]\nschema = 1\nhash = "x"\n')
    with pytest.raises(PinError, match="schema 1"):
        parse(tmp_path / "l")
    with pytest.raises(PinError, match="there is no lock"):
        parse(tmp_path / "none")
