"""A build after an edit of memory nodes alone: it says and leaves what the whole program would, byte for byte."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from amybuild import compiled, edited, noop
from amybuild.cache.lease import guard
from tests.edits import LISTEN, anew, built, left, looked, looks, prose, settle, tick
from tests.harness import Space


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    with built(tmp_path / "project") as made:
        yield made


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return looks(monkeypatch)


def shown(text: str) -> str:
    return re.sub(r"\d+\.\d s|\d+ s|\[.*?\]", "T", text)


def test_an_edit_that_changes_no_result_is_built_without_looking_at_the_rest(space: Space, loaded: list[int]) -> None:
    prose(space, 1)
    tick()
    result = space.run()
    assert (result.code, loaded) == (0, []), result.err
    assert "1 ran, " in result.err, "the twin has the same key"
    found = left(space)
    assert space.run().err.startswith("tess is up to date")
    assert not loaded
    assert found == anew(space)


def test_it_says_what_the_whole_program_says(space: Space, loaded: list[int]) -> None:
    prose(space, 1)
    tick()
    short = space.run()
    assert not loaded
    prose(space, 2)
    tick()
    whole = looked(space)
    assert loaded
    assert shown(short.err) == shown(whole.err)
    assert shown(short.out) == shown(whole.out)


def test_it_warns_of_every_link_that_leads_nowhere(space: Space, loaded: list[int]) -> None:
    space.write("memory/j-01.md", '+++\ntype = "episodic"\nlinks = ["gone"]\n+++\n' + "A day.\n\nworry:9\n")
    space.build()
    settle(space)
    loaded.clear()
    for links in ('["lost", "j-01"]', '["lost", "j-02"]', "[]"):
        space.write(LISTEN, f"+++\nlinks = {links}\n+++\n" + space.read(LISTEN).rpartition("+++\n")[2])
        prose(space, len(links))
        tick()
        short = space.run()
        assert not loaded
        assert ("lost" in short.err, "links to 'gone'" in short.err) == ("lost" in links, True)
        prose(space, 100 + len(links))
        tick()
        assert shown(short.err) == shown(looked(space).err)
        settle(space)
        loaded.clear()


def test_an_edit_behind_a_link_is_one(space: Space, loaded: list[int]) -> None:
    path = space.root / LISTEN
    path.rename(path.with_name("_text.md"))
    path.symlink_to("_text.md")
    space.build()
    settle(space)
    loaded.clear()
    prose(space, 1)
    tick()
    assert "1 ran, " in space.run().err
    assert not loaded
    assert left(space) == anew(space)


def test_the_edit_undone_runs_nothing_and_tells_the_old_account(space: Space, loaded: list[int]) -> None:
    before = left(space)
    for number in (1, 2):
        prose(space, number)
        tick()
        space.run()
    space.write(LISTEN, re.sub(r"(I ask before I mend\.) \d", r"\1", space.read(LISTEN)))
    tick()
    assert space.run().err.startswith("tess put back from the cache")
    assert not loaded
    assert left(space) == before


@pytest.mark.parametrize(
    "edit",
    [
        lambda space: space.edit("memory/j-00.md", "joy:9", "joy:8"),
        lambda space: space.write(LISTEN, space.read(LISTEN).replace("troubles me today", "troubles me now")),
        lambda space: space.write("memory/new.md", "# New\n\nAnother.\n"),
        lambda space: (space.root / "memory/j-03.md").unlink(),
        lambda space: space.edit("Personafile.toml", "alpha = 1.0", "alpha = 0.9"),
        lambda space: space.edit("recipes/quick.toml", "heldout = 0.3", "heldout = 0.4"),
        lambda space: (space.product / "README.md").write_text("mine"),
    ],
    ids=["a tag", "a dialogue", "a new node", "a node less", "Personafile", "recipe", "product"],
)
def test_what_changes_more_is_for_the_whole_program(space: Space, loaded: list[int], edit: object) -> None:
    prose(space, 1)
    edit(space)  # type: ignore[operator]
    tick()
    assert space.run().code == 0
    assert loaded
    found = left(space)
    assert found == anew(space)


def test_a_bad_node_is_an_error_as_ever(space: Space) -> None:
    space.write(LISTEN, "+++\nweight = -1\n+++\n")
    assert (space.run().code, space.run().err) == (2, looked(space).err)


def test_damage_of_what_is_kept_only_costs_time(space: Space, loaded: list[int]) -> None:
    (one,) = (space.root / "cache/v1/compiled").iterdir()
    for number, data in enumerate((b"", one.read_bytes()[:-3], b"xxxx" + one.read_bytes())):
        prose(space, number)
        one.write_bytes(data)
        tick()
        assert space.run().code == 0
        assert len(loaded) == number + 1
        assert left(space) == anew(space)
        loaded.pop()
        settle(space)
        del loaded[number + 1 :]


def test_a_collection_meanwhile_takes_nothing_that_the_build_relies_on(
    space: Space, loaded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = edited._account

    def collected(*rest: object) -> object:
        for _ in range(2):
            assert space.run("gc", "--keep", "0").code == 0
        return real(*rest)  # type: ignore[arg-type]

    monkeypatch.setattr(edited, "_account", collected)
    prose(space, 1)
    tick()
    assert space.run().code == 0
    assert not loaded
    assert left(space) == anew(space)
    assert looked(space).err.startswith("tess is up to date")


def test_a_collection_between_the_look_and_the_build_is_for_the_whole_program(
    space: Space, loaded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = edited.Edited.hold

    def collected(self: edited.Edited) -> object:
        with guard(self.store.root, exclusive=True):
            shutil.rmtree(self.store.root / "trees")
        return real(self)

    monkeypatch.setattr(edited.Edited, "hold", collected)
    prose(space, 1)
    tick()
    assert space.run().code == 0
    assert loaded, "what the look relied on may be gone"
    assert left(space) == anew(space)


def test_what_somebody_took_meanwhile_is_missed_by_the_next_build(
    space: Space, loaded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = edited._conclude

    def taken(work: edited.Edited, *rest: object) -> object:
        trees = (space.root / "cache/v1/trees").glob("*/*.json")
        next(path for path in trees if str(path.parent) not in work.store.written).unlink()
        return real(work, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(edited, "_conclude", taken)
        prose(space, 1)
        tick()
        assert space.run().code == 0
    assert not loaded
    tick()
    assert space.run().code == 0
    assert loaded, "a stamp from after the loss would say that all is there"


@pytest.mark.parametrize("seed", range(3))
def test_random_edits_leave_what_the_whole_program_leaves(space: Space, loaded: list[int], seed: int) -> None:
    """The law: whatever is edited and whichever way a build took, its account is the one that is written anew."""
    rng, short = random.Random(seed), 0
    for number in range(8):
        for _ in range(rng.randint(1, 2)):
            kind = rng.randrange(8)
            if kind < 4:
                prose(space, rng.randrange(3))
            elif kind == 4:
                space.write(
                    "memory/j-01.md", space.read("memory/j-01.md").replace("Today the", f"Today ({number}) the")
                )
            elif kind == 5:
                space.write(
                    "memory/pattern-close.md", space.read("memory/pattern-close.md").replace("too soon.", "so soon.")
                )
            elif kind == 6:
                path = space.root / LISTEN
                path.with_suffix(".tmp").write_bytes(path.read_bytes())
                path.with_suffix(".tmp").rename(path)
            else:
                (space.root / "memory" / f"more-{rng.randrange(2)}.md").write_text(f"# More\n\n{number}\n")
        tick()
        before = len(loaded)
        assert space.run().code == 0
        short += len(loaded) == before
        found = left(space)
        if rng.random() < 0.5:
            assert found == anew(space)
            settle(space)
    assert short, "none was short"
    assert left(space) == anew(space)


def test_what_is_kept_holds_no_text_of_a_memory(space: Space) -> None:
    found = noop.look(["-C", str(space.root)])
    assert found is not None
    known = compiled.read(compiled.place_of(found.asked[0]), found.behind)
    assert known is not None
    assert {row[2] for row in known.readers} == {"corpus", "texts", "labels"}
    assert "weighs on you" not in str(known), "no text of a memory"
