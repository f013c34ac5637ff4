"""A build after an edit of memory nodes alone, where something else is not what it seems: it must not be believed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amybuild import edited
from tests.edits import LISTEN, anew, built, left, looks, prose, record, settle, tick
from tests.harness import Space


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    with built(tmp_path / "project") as made:
        yield made


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return looks(monkeypatch)


def other_recipe(space: Space) -> None:
    space.write("recipes/other.toml", space.read("recipes/quick.toml"))
    space.write("Personafile.toml", space.read("Personafile.toml").replace('recipe = "quick"', 'recipe = "other"'))


@pytest.mark.parametrize(
    ("edit", "args"),
    [
        (lambda space: space.write("Personafile.toml", space.read("Personafile.toml") + "# a remark\n"), ()),
        (other_recipe, ()),
        (lambda space: space.edit("Personafile.toml", '"joy"\nrecipe', '"joy"\nquery = "type:episodic"\nrecipe'), ()),
        (lambda space: None, ("--set", "link.density=0.5")),
    ],
    ids=["a remark", "another name of a recipe", "another query", "a variant that is none"],
)
def test_what_changes_no_key_is_told_with_the_next_account(
    space: Space, edit: Callable[[Space], None], args: tuple[str, ...]
) -> None:
    edit(space)
    for number in (1, 2):  # the first one writes the account anew, the second one amends it
        tick()
        assert space.run(*args).err.startswith("tess is up to date") or number == 2
        prose(space, number)
        tick()
        assert space.run(*args).code == 0
        found = left(space)
        assert found == anew(space, *args)
        settle(space, *args)


@pytest.mark.parametrize("name", ["persona.json", "provenance.json", "model.safetensors", "the record"])
def test_a_file_that_goes_meanwhile_is_made_again(space: Space, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = edited._account

    def gone(*rest: object) -> object:
        (record(space) if name == "the record" else space.product / name).unlink()
        return real(*rest)  # type: ignore[arg-type]

    monkeypatch.setattr(edited, "_account", gone)
    prose(space, 1)
    tick()
    result = space.run()
    assert result.code == 0, result.err
    assert left(space) == anew(space)


@pytest.mark.parametrize(
    "edit",
    [
        lambda space: prose(space, 5),
        lambda space: space.edit("Personafile.toml", "alpha = 1.0", "alpha = 0.9"),
        lambda space: space.write("memory/new.md", "# New\n\nAnother.\n"),
    ],
    ids=["prose", "Personafile", "a node"],
)
def test_an_edit_while_it_runs_is_seen_by_the_next_one(
    space: Space, loaded: list[int], monkeypatch: pytest.MonkeyPatch, edit: Callable[[Space], None]
) -> None:
    real = edited._run

    def during(*rest: object) -> object:
        edit(space)
        return real(*rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(edited, "_run", during)
        prose(space, 1)
        tick()
        assert space.run().code == 0
        assert not loaded
    tick()
    result = space.run()
    assert result.code == 0
    assert left(space) == anew(space)


def test_an_edit_that_keeps_size_and_mtime_is_one(space: Space) -> None:
    path = space.root / LISTEN
    was = path.stat()
    path.write_bytes(path.read_bytes().replace(b"before I mend", b"before I bend"))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    tick()
    assert "1 ran" in space.run().err
    assert left(space) == anew(space)


def test_a_text_that_looks_like_the_account_changes_none(space: Space, loaded: list[int]) -> None:
    """Digests, and the very strings that an account is amended by."""
    account = record(space).read_text()
    space.edit(LISTEN, "I ask before I mend.", f"I ask before I mend. {account}")
    tick()
    assert space.run().code == 0
    assert not loaded
    assert left(space) == anew(space)


@pytest.mark.parametrize("way", ["-C{}", "-C={}", "-qC{}", "--directory={}"])
def test_however_the_folder_is_named_nothing_is_kept_elsewhere(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    from amybuild.cli import main

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(2):
        prose(space, number)
        tick()
        for _ in range(2):
            monkeypatch.chdir(elsewhere)
            assert main([way.format(space.root)]) == 0
    assert not list(elsewhere.iterdir())


def test_a_cache_that_is_an_address_makes_no_folder_of_that_name(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMYBUILD_CACHE", f"file://{tmp_path}/shared")
    for _ in range(2):
        tick()
        assert space.run().code == 0
    assert not (space.root / "file:").exists()


def test_an_action_made_again_with_the_same_result_is_told_as_the_cache_has_it(space: Space) -> None:
    time.sleep(1.1)  # accounts tell seconds
    prose(space, 1)
    tick()
    assert space.run("--force", "persona").code == 0
    assert left(space) == anew(space)


def test_a_result_that_was_lost_and_made_again_is_told_with_its_time(space: Space) -> None:
    time.sleep(1.1)  # accounts tell seconds
    for path in (space.root / "cache/v1/actions").rglob("*.json"):
        path.unlink()
    assert space.build().ran
    assert left(space) == anew(space)
