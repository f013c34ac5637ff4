"""Kept sources: what a build ran reads back by digest; damage and loss cost a diff, never a crash."""

from __future__ import annotations

from pathlib import Path

import amybuild
from amybuild.cache import sources
from amybuild.cache.sources import Sources
from amybuild.plan.code import CodeIndex
from tests.unit.test_store import STRANGE, damaged


def test_the_source_of_every_digest_is_kept(tmp_path: Path) -> None:
    index = CodeIndex(Path(amybuild.__file__).parent, "amybuild")
    found = index.closure("amybuild.actions.corpus:run")
    kept = Sources(tmp_path / "s")
    kept.keep(index.sources())
    text = Sources(tmp_path / "s").text(found["amybuild.actions.corpus:run"])
    assert text is not None
    assert text.startswith("def run(ctx: ActionContext)")
    assert '"""' not in text.splitlines()[1]
    assert set(index.sources()) == set(found.values())
    assert kept.text("0" * 64) is None


def test_only_what_is_new_is_written(tmp_path: Path) -> None:
    kept = Sources(tmp_path / "s")
    kept.keep({})
    assert not kept.path.exists()
    kept.keep({"a": "1"})
    before = kept.path.stat().st_ino
    kept.keep({"a": "1"})
    assert kept.path.stat().st_ino == before
    kept.keep({"b": "2"})
    assert (kept.text("a"), kept.text("b")) == ("1", "2")


def test_the_oldest_go_first(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sources, "_MOST", 2)
    kept = Sources(tmp_path / "s")
    for name in "cab":
        kept.keep({name: name})
    assert [kept.text(name) for name in "cab"] == [None, "a", "b"]


def test_damage_is_a_fresh_start(tmp_path: Path) -> None:
    kept = Sources(tmp_path / "s")
    kept.keep({"a": "1"})
    whole = kept.path.read_bytes()
    for data in [*damaged(whole), *STRANGE]:
        kept.path.write_bytes(data)
        kept.text("a")
        kept.keep({"b": "2"})
        assert kept.text("b") == "2"
