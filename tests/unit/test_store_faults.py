"""A disk that is full at the n-th call, for every n: old or new content, and nothing half-done is published."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.store import Store, disk_errors, write_atomic
from amybuild.errors import ActionError, AmyError
from tests.unit.test_store import FILES, RECORD, contents, fill, put


class Failing:
    """Raises ENOSPC at the n-th call of what writes to the disk, and counts the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left, self.calls = at, 0
        monkeypatch.setattr(os, "replace", self.wrap(os.replace))
        monkeypatch.setattr(os, "fsync", self.wrap(os.fsync))
        monkeypatch.setattr(os, "mkdir", self.wrap(os.mkdir))
        real = builtins.open

        def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if "w" not in mode:
                return real(file, mode, *rest, **named)
            self.tick()
            stream = real(file, mode, *rest, **named)
            return Full(stream, self.tick)

        monkeypatch.setattr(builtins, "open", opened)

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.left:
            raise OSError(errno.ENOSPC, "No space left on device")

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.tick()
            return real(*args, **named)

        return call


class Full(io.RawIOBase):
    """A file whose write fails after half of the data."""

    def __init__(self, stream: Any, tick: Callable[[], None]) -> None:
        self.stream, self.tick = stream, tick

    def write(self, data: Any) -> int:
        try:
            self.tick()
        except OSError:
            self.stream.write(data[: len(data) // 2])
            raise
        return int(self.stream.write(data))

    def flush(self) -> None:
        if not self.stream.closed:
            self.stream.flush()

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def close(self) -> None:
        self.stream.close()
        super().close()


def at_every_call(run: Callable[[int], tuple[Failing, AmyError | None]]) -> int:
    """Calls ``run(1)``, ``run(2)`` … until all calls get through; returns how many times an error came out."""
    errors = 0
    for at in range(1, 200):
        failing, error = run(at)
        if failing.calls < at:
            assert error is None
            return errors
        if error is not None:  # else it did not matter (a folder that is there already)
            errors += 1
            assert error.what == "the disk is full"
            assert "nothing cached was lost" in (error.remedy or "")
    raise AssertionError("it never gets through")


def with_a_full_disk(at: int, work: Callable[[], object]) -> tuple[Failing, AmyError | None]:
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, at)
        try:
            work()
        except AmyError as error:
            return failing, error
    return failing, None


def test_a_write_that_fails_anywhere_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"

    def run(at: int) -> tuple[Failing, AmyError | None]:
        write_atomic(path, b"old" * 50)
        result = with_a_full_disk(at, lambda: write_atomic(path, b"new" * 70))
        assert path.read_bytes() in (b"old" * 50, b"new" * 70)
        assert [p.name for p in path.parent.iterdir()] == ["state.json"], "nothing is left beside it"
        return result

    assert at_every_call(run) >= 4


def test_a_tree_that_fails_anywhere_is_not_there(tmp_path: Path) -> None:
    def run(at: int) -> tuple[Failing, AmyError | None]:
        store = Store(tmp_path / f"store{at}")
        folder = fill(store.scratch() / "out", FILES)
        result = with_a_full_disk(at, lambda: store.put_tree(folder))
        for tree in (store.root / "trees").rglob("*.json"):  # only when the very last step failed: then it is whole
            assert not tree.name.startswith(".")
            assert Store(store.root).tree(tree.stem) is not None
        digest = put(store, FILES)
        assert contents(store.view(digest, store.scratch() / "view")) == FILES
        store.close()
        return result

    assert at_every_call(run) >= 8


def test_a_record_that_fails_anywhere_is_whole_or_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record = Record(**{**RECORD.__dict__, "output": put(store, FILES)})

    def run(at: int) -> tuple[Failing, AmyError | None]:
        shutil.rmtree(store.root / "actions", ignore_errors=True)
        result = with_a_full_disk(at, lambda: ActionCache(store).publish(record))
        assert ActionCache(store).lookup(record.key) in (None, record)
        return result

    assert at_every_call(run) >= 4
    store.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EXDEV])
def test_a_disk_error_has_a_remedy(number: int) -> None:
    with pytest.raises(ActionError) as caught, disk_errors("there"):
        raise OSError(number, "x")
    assert caught.value.where == "there"
    assert caught.value.remedy


def test_too_many_open_files_is_no_fault_of_the_place() -> None:
    with pytest.raises(ActionError) as caught, disk_errors("there", "elsewhere"):
        raise OSError(errno.EMFILE, "x")
    assert "ulimit -n" in str(caught.value)
    assert "elsewhere" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(FileNotFoundError), disk_errors("there"):
        raise FileNotFoundError(errno.ENOENT, "x")
