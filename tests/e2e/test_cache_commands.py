"""gc and fsck as a user meets them: what is freed, what is found, what the next build does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from amybuild.versions import open_cache
from tests.harness import Space
from tests.unit.test_store_verify import flip


def objects(space: Space) -> list[Path]:
    found = [path for path in (space.root / "cache/v1/objects").rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(found, key=lambda path: path.stat().st_size)


def record_of(space: Space, action: str) -> dict[str, str]:
    for path in (space.root / "cache/v1/actions").rglob("*.json"):
        record: dict[str, str] = json.loads(path.read_bytes())
        if record["action"] == action:
            return record
    raise AssertionError(f"no record of {action}")


def object_of(space: Space, action: str) -> Path:
    """The largest file of an action's result."""
    tree = record_of(space, action)["output"]
    listing = json.loads((space.root / f"cache/v1/trees/{tree[:2]}/{tree}.json").read_bytes())["files"]
    digest = max(listing.values(), key=lambda entry: entry[1])[0]
    return space.root / "cache/v1/objects" / digest[:2] / digest


def fsck(space: Space, *args: str, code: int = 0) -> dict[str, list[dict[str, str]]]:
    result = space.run("fsck", "--json", *args)
    assert result.code == code, result.err
    return json.loads(result.out)  # type: ignore[no-any-return]


def test_a_flipped_bit_is_noticed_by_the_next_build_which_makes_that_again(built: Space) -> None:
    flip(object_of(built, "task.listen/train"), 1000)
    result = built.build()
    assert result.ran == {"task.listen/train"}, "the same came out: nothing after it ran"
    notes = [event["text"] for event in result.events if event["event"] == "note"]
    assert len(notes) == 1
    assert "damaged" in notes[0]
    assert len(list((built.root / "cache/v1/quarantine").iterdir())) == 1
    assert built.build().ran == set()
    assert fsck(built)["clean"]


def test_a_flip_that_only_the_action_meets_is_made_again_too(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    from amybuild.cache.store import Store

    victim = object_of(built, "task.listen/train")
    real = Store.view

    def view(self: Store, digest: str, folder: Path) -> Path:
        if victim.exists() and digest == tree:
            monkeypatch.setattr(Store, "view", real)
            flip(victim, 2000)
        return real(self, digest, folder)

    tree = record_of(built, "task.listen/train")["output"]
    monkeypatch.setattr(Store, "view", view)
    built.edit("Personafile.toml", "alpha = 1.0", "alpha = 0.9")
    result = built.build()
    assert result.ran == {
        *("task.listen/train", "task.listen/measure", "task.listen/verify", "checkpoint/link"),
        *("persona/cross", "persona/measure", "persona/verify", "persona/drift"),
    }
    assert not [event for event in result.events if event["event"] == "failed"]
    assert built.build().ran == set()


def test_fsck_says_what_is_hit_and_mends_it(built: Space) -> None:
    assert fsck(built)["clean"]
    victim = object_of(built, "checkpoint/link")
    flip(victim, 50)
    report = fsck(built, code=1)
    (damage,) = report["damages"]
    assert damage["name"] == victim.name
    assert damage["actions"] == ["checkpoint/link"]
    assert len(damage["builds"]) == 1
    text = built.run("fsck")
    assert text.code == 1
    assert f"object {victim.name[:12]}: damaged  checkpoint/link  builds " in text.out
    assert "--repair mends it" in text.err
    mended = built.run("fsck", "--repair")
    assert mended.code == 0
    assert "set aside, dropped" in mended.out
    assert fsck(built)["clean"]
    assert built.build().ran == {"checkpoint/link"}


def test_a_pinned_build_that_lost_a_result_is_exit_5_with_what_to_do(built: Space) -> None:
    assert built.run("pin", "--name", "first").code == 0
    object_of(built, "checkpoint/link").unlink()
    for args in ((), ("--repair",)):
        result = built.run("fsck", *args)
        assert result.code == 5
        assert "first" in result.err
        assert "version control" in result.err
    assert built.build().ran == {"checkpoint/link"}
    assert built.run("fsck").code == 0


def test_damage_to_every_state_file_is_mended_from_the_builds(built: Space) -> None:
    before = built.run("log").out.split()[0]
    state = open_cache(built.root)[1].state_path
    state.write_bytes(state.read_bytes()[:40])
    assert built.run("gc").code == 5, "what cannot be read keeps everything"
    assert built.run("fsck", "--repair").code == 0
    assert built.run("log").out.split()[0] == before
    assert built.run("gc").code == 0
    assert built.build().ran == set()


def test_gc_keeps_what_the_last_builds_and_pins_need(built: Space) -> None:
    first = built.build().summary["build"]
    assert built.run("pin", "--name", "first").code == 0
    for density in ("0.4", "0.3"):
        built.edit("Personafile.toml", "density = 0.5" if density == "0.4" else "density = 0.4", f"density = {density}")
        built.build()
    dry = json.loads(built.run("gc", "--keep", "1", "-n", "--json").out)
    run = json.loads(built.run("gc", "--keep", "1", "--json").out)
    assert [run[name] for name in ("files", "freed", "records")] == [
        dry[name] for name in ("files", "freed", "records")
    ]
    assert {row["action"] for row in run["records"]} == {
        *("checkpoint/link", "persona/measure", "persona/verify", "persona/drift", "persona/product")
    }
    assert run["freed"] > 0
    assert built.build().ran == set()
    assert built.run("checkout", "first").code == 0
    assert fsck(built)["clean"]
    built.edit("Personafile.toml", "density = 0.3", "density = 0.5")
    assert built.build().ran == set()
    assert built.build().summary["build"] == first
    built.edit("Personafile.toml", "density = 0.5", "density = 0.4")
    assert built.build().ran == {*("checkpoint/link", "persona/measure", "persona/verify", "persona/drift")}, (
        "that one was collected"
    )


def test_gc_says_it_in_words(built: Space) -> None:
    result = built.run("gc", "-n", "--max-size", "1k")
    assert "more than 1024" in result.err
    assert "would free" in result.err
    assert built.run("gc", "--max-size", "much").code == 2
    assert built.run("gc", "--keep", "-1").code == 2
    assert built.run("gc", "-q").err == ""


def test_a_build_beside_collections_comes_out_as_without(space: Space) -> None:
    process = space.spawn("--json")
    collections = 0
    while process.poll() is None:
        result = space.run("gc", "--keep", "0", "--json")
        assert result.code == 0, result.err
        collections += 1
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert len(json.loads(out.splitlines()[-1])["ran"]) == 26
    assert collections > 5
    assert fsck(space)["clean"]
    assert space.build().ran == set()


def test_a_collection_between_plan_and_build_is_no_error(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    from amybuild import build as module

    real = module.build

    def build(*args: object) -> object:
        for name in ("actions", "trees", "objects"):
            (built.root / "cache/v1" / name).rename(built.root / "cache/v1" / f"{name}-gone")
        monkeypatch.setattr(module, "build", real)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "build", build)
    assert len(built.build().ran) == 26
    assert built.build().ran == set()
