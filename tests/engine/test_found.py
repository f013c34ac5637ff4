"""What the random tests found, each as small as it gets."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache.history import BuildRecord, History
from amybuild.cache.memo import Memo
from amybuild.cache.store import Store, disk_errors, write_atomic
from amybuild.digest import digest_bytes
from amybuild.errors import ActionError, InputError, PinError
from amybuild.personafile.lock import parse
from tests.engine import fuzz
from tests.engine.fakes import cheap, project
from tests.harness import ROOT


def test_a_folder_in_the_place_of_a_file_gives_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put_bytes(b"text")
    for path in (store.object_path(digest), tmp_path / "state" / "s.json"):
        path.unlink(missing_ok=True)
        (path / "inside").mkdir(parents=True)
    store.put_bytes(b"text")
    write_atomic(tmp_path / "state" / "s.json", b"{}")
    assert store.get_bytes(digest) == b"text"
    assert (tmp_path / "state" / "s.json").read_bytes() == b"{}"


def test_two_processes_that_clear_the_same_folder_away_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.rmtree

    def raced(path: Path, **how: Any) -> None:
        real(path)  # the other one
        real(path, **how)

    (tmp_path / "s.json" / "inside").mkdir(parents=True)
    (tmp_path / "locks" / "k.lock" / "inside").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", raced)
    write_atomic(tmp_path / "s.json", b"{}")
    with Store(tmp_path).lock("k"):
        assert (tmp_path / "s.json").read_bytes() == b"{}"


def test_a_finished_file_replaces_a_folder_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    out = store.scratch() / "out"
    out.mkdir()
    (out / "f").write_bytes(b"text")
    digest = store.put_tree(out)
    for path in [*(tmp_path / "objects").rglob("*"), *(tmp_path / "trees").rglob("*")]:
        if path.is_file():
            path.unlink()
            path.mkdir()
    (out / "f").write_bytes(b"text")
    assert store.put_tree(out) == digest
    assert Store(tmp_path).read_file(digest, "f") == b"text"
    store.close()


def test_a_folder_in_the_place_of_a_lock_gives_way(tmp_path: Path) -> None:
    (tmp_path / "locks" / "k.lock" / "inside").mkdir(parents=True)
    with Store(tmp_path).lock("k"):
        assert (tmp_path / "locks" / "k.lock").is_file()


def test_a_temporary_room_without_a_lock_is_swept(tmp_path: Path) -> None:
    """An interrupt at the start of a thread let the store be closed before that thread was done."""
    left = tmp_path / "tmp" / "1-abc" / "deep"
    left.mkdir(parents=True)
    store = Store(tmp_path)
    store.scratch()
    assert not left.parent.exists()
    store.close()


KILLED = """
import os, sys
from pathlib import Path
from typing import Any
from amybuild.cache.history import BuildRecord, History
from amybuild.cache.memo import Memo
from amybuild.cache.store import Store
os.replace = lambda *_: os._exit(9)
Store(Path(sys.argv[1])).put_bytes(b"text")
"""


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.returncode == 9
    store = Store(tmp_path)
    store.scratch()
    store.put_bytes(b"text")
    store.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if path.name != digest_bytes(b"text") and path.suffix != ".lock"] == []


@pytest.mark.parametrize("number", [errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EMFILE])
def test_what_lies_in_the_way_is_an_error_with_a_remedy(number: int) -> None:
    with pytest.raises(ActionError) as caught, disk_errors("there"):
        raise OSError(number, "x")
    assert caught.value.remedy


def test_a_product_tells_the_inputs_of_its_own_build_though_another_folder_was_built_since(tmp_path: Path) -> None:
    """The same outputs by other inputs: the same build hash, another persona.json. A kill between the build record and
    the product left the same picture."""
    space = project(tmp_path / "project")
    with cheap():
        space.build()
        space.edit("memory/pattern-listen.md", "I ask before I mend.", "I ask, then I mend.")
        other = space.build("-o", str(tmp_path / "other"))
        assert other.ran == {"task.listen/corpus"}
        space.build()
    assert (space.product / "persona.json").read_bytes() == (tmp_path / "other" / "persona.json").read_bytes()


def test_a_flipped_bit_in_what_was_memorised_is_not_believed(tmp_path: Path) -> None:
    """A digest in files.json was: its actions ran again. So was persona.json in a build record, at checkout."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    os.utime(file, (1, 1))
    path = tmp_path / "files.json"
    memo = Memo(path)
    memo.get("name", [1], lambda: "right")
    memo.save()
    path.write_bytes(path.read_bytes().replace(b"right", b"wrong"))
    assert Memo(path).get("name", [1], lambda: "found anew") == "found anew"
    history = History(tmp_path / "cache", tmp_path)
    history.add(BuildRecord("aaaa", "tess", "2026", {}, "g", "b", "", {"name": "right"}))
    (record,) = (tmp_path / "cache" / "builds").rglob("aaaa.json")
    record.write_bytes(record.read_bytes().replace(b"right", b"wrong"))
    assert history.read("aaaa") is None


def test_names_that_are_too_long_for_a_file_are_bad_input(tmp_path: Path) -> None:
    space = project(tmp_path / "project")
    for old, new in (
        ('recipe = "caa"', f'recipe = "{"x" * 5000}"'),
        ('path = "models/tiny"', f'path = "{"x" * 5000}"'),
        ('source = "memory"', f'source = "{"x" * 5000}"'),
    ):
        space.edit("Personafile.toml", old, new)
        result = space.run()
        assert result.code == 2
        assert len(result.err) < 2100
        space.edit("Personafile.toml", new, old)


@pytest.mark.parametrize("value", ["07:32:00", "1979-05-27", "7", "[]", "{}", "true"])
def test_a_lock_whose_digests_are_no_strings_cannot_be_read(tmp_path: Path, value: str) -> None:
    text = fuzz.pinned()
    for digest in sorted(set(re.findall(r'"[0-9a-f]{64}"', text)))[:8]:
        path = tmp_path / "Personafile.lock"
        path.write_text(text.replace(digest, value))
        with pytest.raises(PinError):
            parse(path)


def test_a_message_gives_a_terminal_no_orders() -> None:
    told = str(InputError("no task '\x1b[31mred\u202e'", remedy="rename it"))
    assert told == "no task '\\x1b[31mred\\u202e'\n  rename it"


def test_a_folder_in_the_place_of_the_collections_lock_gives_way(tmp_path: Path) -> None:
    (tmp_path / "gc.lock" / "inside").mkdir(parents=True)
    store = Store(tmp_path)
    assert store.get_bytes(store.put_bytes(b"text")) == b"text"
    store.close()
