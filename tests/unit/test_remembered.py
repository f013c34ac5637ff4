"""What is remembered of records and listings is what their files say, or nothing."""

from __future__ import annotations

import marshal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache.actions import ActionCache, Record, Remembered
from amybuild.cache.store import Store

KEY = "ab" * 32


def filled(root: Path, text: str = "one", action: str = "t/x") -> Record:
    store = Store(root)
    out = store.scratch()
    (out / "deep").mkdir()
    (out / "a").write_text(text)
    (out / "deep/b").write_text("b")
    manifest = (("code", "m:f", "1"), ("param", "lr", "0.1"))
    record = Record(action, "rule", KEY, manifest, store.put_tree(out), 1.5, "2026", {"python": "3"})
    store.close()
    ActionCache(store).publish(record)
    return record


def again(root: Path, kept: Any = ({}, {})) -> tuple[Record | None, Any]:
    """A look-up in a run that knows `kept`, and what it keeps for the next one."""
    store = Store(root)
    records, store.known = kept
    cache = ActionCache(store, records)
    found = cache.lookup(KEY)
    return found, marshal.loads(marshal.dumps((cache.rows, store.listings())))


def test_a_remembered_record_is_the_record(tmp_path: Path) -> None:
    record = filled(tmp_path)
    first, kept = again(tmp_path)
    assert first == record
    found, more = again(tmp_path, kept)
    assert isinstance(found, Remembered)
    assert more == kept
    for name in Record.__annotations__:
        assert getattr(found, name) == getattr(record, name), name
    with pytest.raises(AttributeError):
        _ = found.nothing  # type: ignore[attr-defined]


def test_its_files_are_found_by_the_listing(tmp_path: Path) -> None:
    record = filled(tmp_path)
    _, kept = again(tmp_path)
    store = Store(tmp_path)
    store.known = kept[1]
    assert store.tree(record.output) == Store(tmp_path).tree(record.output)
    assert store.read_file(record.output, "deep/b") == b"b"


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: (path.stat().st_size, path))


def shorten(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("where", ["actions", "trees", "objects"])
@pytest.mark.parametrize("damage", [Path.unlink, shorten])
def test_what_is_gone_or_damaged_is_a_miss(tmp_path: Path, where: str, damage: Callable[[Path], object]) -> None:
    filled(tmp_path)
    _, kept = again(tmp_path)
    damage(largest(tmp_path / where))
    found, _ = again(tmp_path, kept)
    if where == "trees" and damage is shorten:
        assert found is not None  # the listing is known: nothing is lost
    else:
        assert found is None


def test_a_record_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    old = filled(tmp_path)
    _, kept = again(tmp_path)
    new = filled(tmp_path, "two")
    found, more = again(tmp_path, kept)
    assert found == new != old
    assert again(tmp_path, more)[0] is not None
    assert more != kept
