"""Bad input ends with exit code 2 (1 when an action found it), a place and a remedy; never with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, Space

CASES = [
    ('name = "tess"', 'nam = "tess"', 2, ["Personafile.toml", "[persona]", "'name' is missing"]),
    ('name = "tess"', 'name = "tess"\ncolour = 1', 2, ["[persona] colour", "unknown key 'colour'"]),
    ("alpha = -0.5", 'alpha = "strong"', 2, ["[task.close] alpha", "must be a number"]),
    ("alpha = -0.5", "alpha = nan", 2, ["[task.close] alpha", "not nan"]),
    ("alpha = -0.5", "alpha = inf", 2, ["[task.close] alpha", "finite"]),
    ("alpha = -0.5", "alpha = -0.5\nalhpa = 1", 2, ["unknown key 'alhpa'", "did you mean 'alpha'?"]),
    ('node = "pattern-listen"', 'node = "pattern-lisen"', 2, ["[task.listen] node", "did you mean 'pattern-listen'?"]),
    ("pattern-close#talk", "pattern-close#tlak", 2, ["[task.close]", "talk"]),
    (
        'node = "pattern-listen"\nrecipe = "quick"',
        'node = "pattern-listen"\nrecipe = "quik"',
        2,
        ["did you mean 'quick'?"],
    ),
    ('node = "pattern-listen"\nrecipe = "quick"', 'node = "pattern-listen"\nrecipe = "caa"', 2, ["for steer targets"]),
    ('node = "pattern-listen"\n', "", 2, ["[task.listen]", "exactly one of node, query, analogy"]),
    ('node = "pattern-listen"', 'query = "key:nothing-*"', 2, ["[task.listen] query", "matches no node"]),
    ('node = "pattern-listen"', 'query = "key:pattern-* | bogus:1"', 2, ["[task.listen] query"]),
    ('node = "pattern-listen"', 'node = "j-00"', 1, ["task.listen/corpus", "j-00"]),
    ('path = "models/tiny"', 'path = "models/none"', 2, ["[base.tiny]", "models/none"]),
    ('path = "models/tiny"', 'path = "memory"', 1, ["base.tiny/import"]),
    ('path = "models/tiny"', 'path = "models/tiny"\nhub = "a/b"', 2, ["exactly one of wheel, hub, path"]),
    ('path = "models/tiny"', 'hub = "a/b"', 2, ["pinned revision"]),
    ('path = "models/tiny"', 'hub = "a/b"\nrevision = "main"', 2, ["[base.tiny] revision", "40 hex digits"]),
    ('path = "models/tiny"', 'wheel = "x"\nfile = "y"', 2, ["exact version"]),
    ('base = "tiny"', 'base = "tinny"', 2, ["no [base.tinny]", "did you mean 'tiny'?"]),
    ('source = "memory"', 'source = "memories"', 2, ["memories"]),
    ('source = "memory"', 'source = "stdio: cat"', 2, ["stdio"]),
    ('method = "ties"', 'method = "tiles"', 2, ["[link] method", "did you mean 'ties'?"]),
    ("density = 0.5", "density = 1.5", 2, ["[link] density", "(0, 1]"]),
    ("layers = [1, 2]", "layers = [1, 99]", 1, ["blocks from 0 to 2, not [1, 99]"]),
    ("layers = [1, 2]", 'layers = "top"', 2, ["[readout] layers"]),
    ('concepts = ["joy", "worry"]', 'concepts = ["joy", "wory"]', 1, ["wory", "did you mean 'worry'?"]),
    ('concepts = ["joy", "worry"]', "", 2, ["'concepts' is missing"]),
    ("[persona]", "[persona", 2, ["Personafile.toml", "not valid TOML"]),
    (
        "[steer.joy]",
        '[task.a]\nanalogy = {a="b", b="listen", c="close"}\nrecipe="quick"\n'
        '[task.b]\nanalogy = {a="a", b="listen", c="close"}\nrecipe="quick"\n[steer.joy]',
        2,
        ["a cycle: a -> b -> a"],
    ),
    (
        "[steer.joy]",
        '[task.a]\nanalogy = {a="x", b="listen", c="close"}\nrecipe="quick"\n[steer.joy]',
        2,
        ["no task 'x'"],
    ),
]


@pytest.mark.parametrize(("old", "new", "code", "said"), CASES, ids=[c[1][:40] or "removed" for c in CASES])
def test_personafile(space: Space, old: str, new: str, code: int, said: list[str]) -> None:
    space.edit("Personafile.toml", old, new)
    result = space.run("-k", "--no-color")
    assert result.code == code, result.err
    for words in said:
        assert words in result.err


RECIPES = [
    ("rank = 2", "rank = 0", ["recipes/quick.toml", "rank", "at least 1"]),
    ("rank = 2", "rank = 2.5", ["whole number"]),
    ("rank = 2", "ranks = 2", ["unknown key 'ranks'", "did you mean 'rank'?"]),
    ('kind = "task"', 'kind = "tasks"', ["did you mean 'task'?"]),
    ("max_neutral_kl = 50.0", "max_neutral = 50.0", ["[gates]", "did you mean 'max_neutral_kl'?"]),
    ("heldout = 0.3", "heldout = 1.0", ["between 0 and 1"]),
    ('kind = "task"', 'kind = "task', ["not valid TOML"]),
]


@pytest.mark.parametrize(("old", "new", "said"), RECIPES, ids=[r[1] for r in RECIPES])
def test_recipe(space: Space, old: str, new: str, said: list[str]) -> None:
    space.edit("recipes/quick.toml", old, new)
    result = space.run()
    assert result.code == 2
    for words in ["quick.toml", *said]:
        assert words in result.err


def test_a_memory_node_that_is_wrong_names_its_file(space: Space) -> None:
    space.write("memory/broken.md", "+++\ntyp = 'semantic'\n+++\ntext\n")
    result = space.run()
    assert result.code == 2
    assert "broken.md" in result.err
    assert "did you mean 'type'?" in result.err


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00" * 64, b"+++\n" * 3, b"```dialogue\nUser: a\n"])
def test_nonsense_in_a_pattern_node(space: Space, content: bytes) -> None:
    (space.root / "memory" / "pattern-listen.md").write_bytes(content)
    result = space.run("task.listen")
    assert result.code in (1, 2)
    assert "pattern-listen" in result.err


def test_command_line(space: Space) -> None:
    for args, said in (
        (["--frobnicate"], "frobnicate"),
        (["-j", "0"], "-j"),
        (["--set", "nonsense"], "KEY=VALUE"),
        (["--set", "task.listen.alpha=x"], "must be a number"),
        (["--without", "lisen"], "did you mean 'listen'?"),
        (["shwo"], "did you mean 'show'?"),
        (["show", "deadbeef"], "amybuild log"),
        (["-f", "Other.toml"], "Other.toml"),
        (["log", "-f", "Other.toml"], "Other.toml"),
        (["-C", "/nowhere/at/all"], "-C"),
    ):
        result = space.run(*args)
        assert result.code == 2, (args, result.err)
        assert said in result.err, args


def test_help_names_every_command(space: Space) -> None:
    text = space.run("--help").out
    for word in ("--explain", "graph", "log", "show", "diff", "pin", "checkout", "exit codes"):
        assert word in text
    for command in ("graph", "log", "show", "diff", "pin", "checkout"):
        assert space.run(command, "--help").code == 0


def test_a_model_that_cannot_be_read(space: Space) -> None:
    link = space.root / "models" / "tiny"
    import shutil

    real = link.resolve()
    link.unlink()
    shutil.copytree(real, link)
    (link / "model.safetensors").write_bytes(b"not a tensor file")
    result = space.run("--no-color")
    assert result.code == 1
    assert "base.tiny" in result.err
    assert "a file of weights is not whole" in result.err
    assert "git lfs pull" in result.err


def test_a_current_folder_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    for command in ("", "doctor", f"-C {tmp_path} log"):
        (tmp_path / "gone").mkdir()
        line = f"rmdir '{tmp_path / 'gone'}'; {sys.executable} -m amybuild {command}"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            line, shell=True, cwd=tmp_path / "gone", env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "the current folder is gone" in done.stderr
