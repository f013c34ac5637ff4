"""`--explain` says the answer first, root cause and old -> new; agrees with the build; writes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import ROOT, Space, golden, states

Edit = Callable[[Space], object]
NEW_TASK = '\n[task.again]\nnode = "pattern-listen"\nrecipe = "quick"\nalpha = 0.1\n\n[steer.joy]'
MANY = ["joy", "worry", "calm", "pride", "doubt", "hope", "envy", "awe"]


def edit(name: str, old: str, new: str) -> Edit:
    return lambda space: space.edit(name, old, new)


def both(*edits: Edit) -> Edit:
    return lambda space: [one(space) for one in edits]


def all_journals(space: Space) -> None:
    for path in sorted((space.root / "memory").glob("j-*.md")):
        path.write_text(path.read_text().replace("first hour", "second hour"))


def undone(space: Space) -> None:
    space.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    space.build()
    space.edit("Personafile.toml", "density = 0.25", "density = 0.5")


NODE = edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
SCENES: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "up-to-date": (lambda space: None, ()),
    "up-to-date-all": (lambda space: None, ("--all",)),
    "up-to-date-asked": (lambda space: None, ("task.listen",)),
    "node-edited": (NODE, ()),
    "node-removed": (lambda space: (space.root / "memory/j-03.md").unlink(), ("readout",)),
    "nodes-over-the-cap": (all_journals, ("readout",)),
    "recipe-field": (edit("recipes/quick.toml", "steps = 3", "steps = 4"), ()),
    "parameter": (edit("Personafile.toml", "density = 0.5", "density = 0.25"), ()),
    "long-parameter": (
        edit(
            "Personafile.toml", '["joy", "worry"]', '["joy", "worry", "calm", "pride", "doubt", "hope", "envy", "awe"]'
        ),
        ("readout",),
    ),
    "variant": (lambda space: None, ("--set", "task.listen.alpha=0.3")),
    "two-roots": (both(NODE, edit("recipes/caa.toml", "min_chars = 10", "min_chars = 11")), ()),
    "two-roots-all": (both(NODE, edit("Personafile.toml", "alpha = -0.5", "alpha = -0.25")), ("--all", "checkpoint")),
    "may-stop-early": (edit("memory/pattern-listen.md", "I ask before", "I do ask before"), ("persona",)),
    "waits-in-the-cache": (undone, ()),
    "objects-wiped": (lambda space: shutil.rmtree(space.root / "cache/v1/objects"), ("checkpoint",)),
    "state-wiped": (lambda space: shutil.rmtree(space.root / "cache/v1/state"), ("task.listen",)),
    "new-target": (edit("Personafile.toml", "\n[steer.joy]", NEW_TASK), ()),
    "forced": (lambda space: None, ("--force", "task.close/train")),
    "product-changed": (lambda space: (space.product / "config.json").write_text("{}"), ()),
    "product-gone": (lambda space: shutil.rmtree(space.product), ()),
}


@pytest.mark.parametrize("name", SCENES)
def test_the_text_for_people_is_golden(built: Space, name: str) -> None:
    change, args = SCENES[name]
    change(built)
    result = built.run("--explain", *args)
    assert (result.code, result.err) == (0, "")
    golden(name, result.out)


def test_nothing_built_yet(space: Space) -> None:
    golden("nothing-built", space.run("--explain").out)
    explained = space.explain()
    assert explained["schema"] == 1
    assert not explained["up_to_date"]
    assert set(states(explained).values()) == {"missing"}
    assert not (space.root / "cache").exists()


def test_another_version_of_a_library(built: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    (tmp_path / "numba-99.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    golden("library-version", built.run("--explain").out.replace(numba.__version__, "VERSION"))


def test_a_function_that_changed_is_named_with_its_old_and_new_source(built: Space, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "amybuild", tmp_path / "amybuild", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    where = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    source = tmp_path / "amybuild/actions/corpus.py"
    text = source.read_text()
    source.write_text(f"# a comment and a blank line change nothing\n\n{text}")
    out, err = built.spawn("--explain", **where).communicate(timeout=60)
    assert out == "tess is up to date (27 actions)\n", err
    source = tmp_path / "amybuild/actions/baseline.py"
    text = source.read_text()
    assert text.count("if not pairs:") == 1
    source.write_text(text.replace("if not pairs:", "if len(pairs) < 2:"))
    out, err = built.spawn("--explain", **where).communicate(timeout=60)
    golden("code-changed", out)
    assert err == ""


def test_an_edit_is_the_root_cause_of_all_that_follows(built: Space) -> None:
    NODE(built)
    explained = built.explain()
    found = states(explained)
    assert found["task.listen/corpus"] == "stale"
    assert {a for a, s in found.items() if s == "unknown"} == {
        *(
            *(f"task.listen/{step}" for step in ("train", "baseline", "measure", "verify")),
            *(f"persona/{step}" for step in ("cross", "measure", "verify", "drift")),
            "checkpoint/link",
        )
    }
    by_target = {t["target"]: t for t in explained["targets"]}
    assert by_target["checkpoint"]["causes"] == ["task.listen/corpus"]
    assert by_target["checkpoint"]["actions"][0]["chain"] == [
        *("checkpoint/link", "task.listen/train", "task.listen/corpus")
    ]
    assert by_target["task.close"]["state"] == "up-to-date"
    assert by_target["task.close"]["cost_s"] == 0
    change = by_target["task.listen"]["actions"][0]["changes"][0]
    assert (change["kind"], change["name"]) == ("node", "pattern-listen")
    assert change["old"] != change["new"]
    costs = [action["cost_s"] for action in by_target["task.listen"]["actions"]]
    assert costs[1] > 0
    assert by_target["task.listen"]["cost_s"] == pytest.approx(sum(costs))
    assert "boat" not in json.dumps(explained)  # digests, not the words


def test_recipe_parameter_and_output_show_old_and_new(built: Space) -> None:
    built.edit("recipes/quick.toml", "steps = 3", "steps = 4")
    built.edit("Personafile.toml", "alpha = -0.5", "alpha = -0.25")
    shutil.rmtree(built.root / "cache/v1/trees")
    changes = {
        (c["kind"], c["name"], c["old"], c["new"])
        for t in built.explain()["targets"]
        for a in t["actions"]
        for c in a["changes"]
    }
    assert ("recipe", "steps", "3", "4") in changes
    assert ("param", "alpha", "-0.5", "-0.25") in changes
    assert any(kind == "output" and name == "base.tiny/import" and not new for kind, name, _, new in changes)


def test_the_product_of_another_build_is_told(built: Space) -> None:
    NODE(built)
    built.build()
    assert built.run("rollback").code == 0
    explained = built.explain()
    assert not explained["up_to_date"]
    assert explained["product"]["folder"].endswith("dist/tess")
    golden("product-of-another-build", built.run("--explain").out)
    built.build()
    assert built.explain()["product"] is None


def test_it_writes_nothing_and_agrees_with_the_build(built: Space) -> None:
    built.edit("memory/pattern-close.md", "Assistant: The boat can", "Assistant: That boat can")
    before = [*built.files("cache"), *built.files("dist")]
    found = states(built.explain())
    built.run("-n")
    assert [*built.files("cache"), *built.files("dist")] == before
    ran = built.build().ran
    assert {a for a, s in found.items() if s == "stale"} <= ran
    assert ran <= {a for a, s in found.items() if s in ("stale", "unknown")}


def test_unknown_target_suggests(built: Space) -> None:
    result = built.run("--explain", "task.lisen")
    assert result.code == 2
    assert "did you mean 'task.listen'?" in result.err
