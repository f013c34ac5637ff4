"""`--check`: run again and compare, and inputs that change while an action runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import amybuild
from amybuild import running
from amybuild.build import Options, Project
from amybuild.execute.job import Job
from tests.harness import Space
from tests.unit.test_executor import World, action, graph
from tests.unit.test_personafile import write_project


def after(monkeypatch: pytest.MonkeyPatch, rule: str, then: Callable[[Job, Path], None]) -> None:
    """Have `then` look at (and change) the output of each action of a rule."""
    real = running.run_job

    def run(job: Job, inputs: Mapping[str, Path], out: Path, *more: Any) -> None:
        real(job, inputs, out, *more)
        if job.rule == rule:
            then(job, out)

    monkeypatch.setattr(running, "run_job", run)


def disturb(job: Job, out: Path) -> None:
    """A training that is not deterministic: one number of one tensor, and the last loss."""
    from safetensors.numpy import load_file, save_file

    (file,) = out.glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].flat[0] += 0.25
    save_file(tensors, file)
    losses = json.loads((out / "train.json").read_text())
    losses["disturbed"] = 1
    (out / "train.json").write_text(json.dumps(losses))


def test_a_check_says_by_how_much_a_result_differs(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set((built.root / "cache" / "v1" / "actions").rglob("*.json"))
    after(monkeypatch, "train", disturb)
    result = built.build("--check", "task.listen", code=4)
    assert {e["action"] for e in result.events if e["event"] == "start"} == {
        *(f"task.listen/{step}" for step in ("corpus", "train", "baseline", "measure", "verify"))
    }, "only what was named, and all of it on the inputs it had"
    (found,) = [e for e in result.events if e["event"] == "differs"]
    assert found["action"] == "task.listen/train"
    files = {file["file"]: file for file in found["files"]}
    (weights,) = [file for name, file in files.items() if name.endswith(".safetensors")]
    assert [row["differing"] for row in weights["tensors"]] == [1]
    assert weights["tensors"][0]["max_abs"] == pytest.approx(0.25, abs=1e-3)
    assert [row["key"] for row in files["train.json"]["keys"]] == ["disturbed"]
    assert found["hosts"]["old"]["machine"]
    assert "another result than the cached one: task.listen/train" in result.err
    assert set((built.root / "cache" / "v1" / "actions").rglob("*.json")) == before
    text = built.run("--check", "task.listen/train")
    assert text.code == 4
    assert "by at most 0.25" in text.err
    assert "Traceback" not in text.err
    quiet = built.run("-q", "--check", "task.listen/train")
    assert "by at most 0.25" in quiet.err
    monkeypatch.undo()
    assert built.build().ran == set(), "the cached result stays"
    assert built.build("--check", "task.listen").ran == {
        *(f"task.listen/{step}" for step in ("corpus", "train", "baseline", "measure", "verify"))
    }


def test_a_check_of_what_is_not_there_builds_it_and_says_so(space: Space) -> None:
    result = space.build("--check", "task.listen/corpus")
    assert result.ran == {"task.listen/corpus"}
    (note,) = [e["text"] for e in result.events if e["event"] == "note"]
    assert note == "nothing in the cache to compare with: task.listen/corpus"
    assert space.build("task.listen/corpus").ran == set()


# what changes while an action runs


def test_a_node_edited_during_a_build_is_seen_by_the_next(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    original = built.read("memory/pattern-listen.md")
    one = original.replace("What is it about the boat that", "Why is it that the boat")
    two = original.replace("What is it about the boat that", "How is it that the boat")

    def edit(job: Job, out: Path) -> None:
        built.write("memory/pattern-listen.md", two)

    built.write("memory/pattern-listen.md", one)
    with monkeypatch.context() as patch:
        after(patch, "corpus", edit)
        built.build("task.listen/corpus")
    assert built.build("task.listen/corpus").ran == {"task.listen/corpus"}
    built.write("memory/pattern-listen.md", one)
    assert built.build("task.listen/corpus").ran == set(), "the first result belongs to the first text"
    built.write("memory/pattern-listen.md", original)
    assert built.build("task.listen/corpus").ran == set()


def test_a_recipe_edited_during_a_build_is_seen_by_the_next(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    built.edit("recipes/quick.toml", "steps = 3", "steps = 4")

    def edit(job: Job, out: Path) -> None:
        built.write("recipes/quick.toml", built.read("recipes/quick.toml").replace("steps = 4", "steps = 5"))

    with monkeypatch.context() as patch:
        after(patch, "train", edit)
        built.build("task.listen/train")
    assert built.build("task.listen/train").ran == {"task.listen/train"}
    built.edit("recipes/quick.toml", "steps = 5", "steps = 4")
    assert built.build("task.listen/train").ran == set()


def test_a_base_that_changes_while_it_is_read_is_not_kept(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    base = space.root / "models" / "tiny"
    real = base.resolve()
    base.unlink()
    shutil.copytree(real, base)
    with monkeypatch.context() as patch:
        after(patch, "base", lambda job, out: (base / "config.json").write_text("{}") and None)
        result = space.run("--json", "base.tiny/import")
    assert result.code == 1
    (failed,) = [e for e in result.events if e["event"] == "failed"]
    assert "changed while it was being read" in failed["error"]
    shutil.copyfile(real / "config.json", base / "config.json")
    assert space.build("base.tiny/import").ran == {"base.tiny/import"}


def test_code_that_changed_while_it_ran_makes_no_record(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    outcome = world.build(graph(action("a/x"), action("b/x", rule="other")), code_is=lambda rule, code: rule == "other")
    assert "own code for it changed" in outcome.failed["a/x"].what
    assert outcome.ran == ["b/x"]
    assert world.build(graph(action("a/x"))).ran == ["a/x"]


def test_only_the_code_of_the_rule_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "amybuild"
    shutil.copytree(Path(amybuild.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(amybuild, "__file__", str(package / "__init__.py"))
    project = Project(Options(file=write_project(tmp_path / "project")))

    def same(rule: str) -> bool:
        return project.code_is(rule, project.identity.code[rule])

    assert same("corpus")
    source = package / "actions" / "corpus.py"
    text = source.read_text()
    source.write_text(text + "\n# a remark\n")
    assert same("corpus"), "a remark is no change"
    source.write_text(text.replace("def run(", "def run_before(", 1) + "\n\ndef run(ctx):\n    pass\n")
    assert not same("corpus")
    assert same("texts")
    prompts = package / "actions" / "neutral_prompts.txt"
    prompts.write_text("another\n")
    assert not same("neutral")
