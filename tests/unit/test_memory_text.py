"""Text files that people hand in: the same lines however they are read, and nothing that is not theirs to give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory import text
from amybuild.memory.text import inside, lines_of, text_of


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=9), max_size=9))
def test_lines_are_the_text_in_lines(tmp_path: Path, lines: list[str]) -> None:
    for end in ("\n", "\r\n"):
        (tmp_path / "x").write_bytes("".join(line + end for line in lines).encode("utf-8-sig" if lines else "utf-8"))
        found = list(lines_of(tmp_path / "x", "x"))
        assert found == lines
        assert text_of(tmp_path / "x", "x") == "".join(line + "\n" for line in lines)


def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"one\ntwo\xff\n")
    for read in (lambda: list(lines_of(file, "x")), lambda: text_of(file, "x")):
        with pytest.raises(InputError, match="x:2: not UTF-8"):
            read()
    monkeypatch.setattr(text, "MAX_BYTES", 8)
    monkeypatch.setattr(text, "MAX_FILE", 12)
    file.write_bytes(b"short\n" + b"l" * 9 + b"\n")
    with pytest.raises(InputError, match="x:2: a line of more than"):
        list(lines_of(file, "x"))
    with pytest.raises(InputError, match="x: larger than"):
        text_of(file, "x")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            list(lines_of(path, "x"))
        with pytest.raises(InputError, match="cannot be read"):
            text_of(path, "x")


def test_only_what_lies_inside_is_taken(tmp_path: Path) -> None:
    root, out = tmp_path / "project", tmp_path / "out"
    (root / "a/b").mkdir(parents=True)
    out.mkdir()
    (root / "a/file").write_text("x")
    (out / "file").write_text("x")
    (root / "a/b/near").symlink_to(root / "a/file")
    assert inside(root, "a", "here") == root / "a"
    assert inside(root, "a/b/../file", "here") == root / "a/file"
    assert inside(root, "a/b/near", "here") == root / "a/file"
    for name in ("../out/file", str(out), "a/none", "\0", "x" * 5000):
        with pytest.raises(InputError, match="here: "):
            inside(root, name, "here")
    for target in (out / "file", out, tmp_path / "gone"):
        link = root / "a/b/far"
        link.symlink_to(target)
        for name in ("a", "a/b", "a/b/far"):
            with pytest.raises(InputError):
                inside(root, name, "here")
        link.unlink()
    os.mkfifo(root / "a/b/pipe")
    for name in ("a", "a/b/pipe"):
        with pytest.raises(InputError, match="neither"):
            inside(root, name, "here")
    (root / "round").symlink_to(root / "round")
    with pytest.raises(InputError):
        inside(root, "round", "here")


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chats" / "locked").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="here: a folder in it cannot be read: Permission denied"):
        inside(tmp_path, "chats", "here")
