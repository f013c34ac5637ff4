"""`amybuild init` makes a project that builds, and `amybuild doctor` says what is wrong with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import amybuild
from amybuild import doctor
from amybuild.cache.remote import Folder
from tests.harness import ROOT, Space


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "amybuild", "-C", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_a_new_project_loads_and_its_dialogues_are_enough(tmp_path: Path) -> None:
    made = run(tmp_path, "init", "My First One")
    assert made.returncode == 0, made.stderr
    assert "now cd 'My First One' && amybuild" in made.stderr, "as it can be pasted into a shell"
    project = tmp_path / "My First One"
    assert 'name = "my-first-one"' in (project / "Personafile.toml").read_text()
    assert {path.name for path in (project / "recipes").iterdir()} == {"lora-sft.toml", "caa.toml"}
    targets = [f"task.{name}/corpus" for name in ("one_question", "not_knowing", "voice")]
    built = run(project, "--json", *targets)
    assert built.returncode == 0, built.stderr
    assert sorted(json.loads(built.stdout.splitlines()[-1])["ran"]) == sorted(targets)
    cards = [
        path
        for path in (project / "cache/v1/objects").rglob("*")
        if path.is_file() and b'"heldout_pairs"' in path.read_bytes()
    ]
    assert len(cards) == 3
    for path in cards:
        card = json.loads(path.read_bytes())
        assert not card["warnings"], "an example of good dialogues warns of none"
        assert card["heldout_pairs"] >= 2
        assert card["train"] >= 6
    dry = run(project, "-n")
    assert "warning" not in dry.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "voice.md").write_text("mine")
    refused = run(tmp_path, "init")
    assert refused.returncode == 2
    assert "memory/voice.md" in refused.stderr
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["voice.md"]
    (tmp_path / "memory" / "voice.md").unlink()
    (tmp_path / ".gitignore").write_text("mine\n")
    made = run(tmp_path, "init")
    assert made.returncode == 0
    assert "add /cache/ and /dist/" in made.stderr
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
    assert run(tmp_path, "init").returncode == 2


def test_init_works_from_a_wheel(tmp_path: Path) -> None:
    """As the wheel lays it out: the package with the recipes inside it, and nothing beside."""
    site = tmp_path / "site"
    shutil.copytree(Path(amybuild.__file__).parent, site / "amybuild", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "recipes", site / "amybuild" / "recipes")
    command = [sys.executable, "-m", "amybuild", "init", str(tmp_path / "new")]
    made = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "new" / "recipes" / "caa.toml").read_text() == (ROOT / "recipes" / "caa.toml").read_text()


@pytest.mark.slow
def test_the_wheel_carries_what_init_needs(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"amybuild/starter/Personafile.toml", "amybuild/starter/gitignore", "amybuild/recipes/caa.toml"} <= names
    assert "amybuild/starter/memory/voice.md" in names


# doctor


def findings(space: Space) -> dict[str, list[dict[str, Any]]]:
    result = space.run("doctor", "--json")
    told = json.loads(result.out)
    assert (result.code == 0) == told["ok"]
    found: dict[str, list[dict[str, Any]]] = {}
    for one in told["findings"]:
        assert one["level"] == "ok" or one["remedy"], one
        found.setdefault(one["name"], []).append(one)
    return found


def worst(rows: list[dict[str, Any]]) -> str:
    return max((row["level"] for row in rows), key=["ok", "warn", "fail"].index)


def test_a_healthy_project_is_all_well(built: Space) -> None:
    before = sorted(built.files("dist")), sorted(built.files("memory"))
    found = findings(built)
    assert {worst(rows) for name, rows in found.items() if name not in ("memory", "disk", "gpu")} == {"ok"}
    assert found["project"][0]["what"] == "tess: 2 tasks, 27 actions, 14 nodes read"
    assert found["build"][0]["what"] == "everything is in the cache"
    assert (sorted(built.files("dist")), sorted(built.files("memory"))) == before
    text = built.run("doctor")
    assert "ok    project       tess" in text.out
    assert built.run("doctor", "-q").out.count("\n") <= 2 * len(found)


def test_the_shared_store_is_asked(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "shared store" not in findings(space)
    monkeypatch.setenv("AMYBUILD_REMOTE", (tmp_path / "share").as_uri())
    for _ in range(2):  # what it leaves there is in nobody's way
        assert findings(space)["shared store"][0]["what"] == "it can be read and written"
    monkeypatch.setattr(Folder, "add", _raise(PermissionError))
    (found,) = findings(space)["shared store"]
    assert (found["level"], found["what"]) == ("warn", "it can be read, but not written: no permission")
    monkeypatch.setattr(Folder, "read", _raise(ConnectionError))
    assert findings(space)["shared store"][0]["what"] == "cannot be read: ConnectionError"


def test_a_shared_store_that_does_not_answer_is_not_waited_for(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = threading.Event()
    monkeypatch.setenv("AMYBUILD_REMOTE", (tmp_path / "share").as_uri())
    real = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, name: real(self, name) if "/" in name else forever.wait())
    monkeypatch.setattr(doctor, "_PATIENCE", 0.1)
    (found,) = findings(space)["shared store"]
    assert (found["level"], found["what"]) == ("fail", "cannot be read: no answer within 0 s")
    forever.set()


def test_a_shared_store_that_may_only_be_read_is_not_written(space: Space, tmp_path: Path) -> None:
    url = (tmp_path / "share").as_uri()
    space.write("Personafile.toml", space.read("Personafile.toml") + f'\n[cache]\nremote = "{url}"\nreadonly = true\n')
    assert findings(space)["shared store"][0]["what"] == "it answers"
    assert not (tmp_path / "share").exists()


def _raise(error: type[Exception]) -> Callable[..., NoReturn]:
    def fail(*rest: object, **more: object) -> NoReturn:
        raise error

    return fail


def test_what_has_to_run_is_told_with_its_time(built: Space) -> None:
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    assert findings(built)["build"][0]["what"].startswith("4 of 27 actions have to run, ")


@pytest.mark.parametrize(
    ("damage", "name", "level", "words"),
    [
        ("personafile", "project", "fail", "unknown key 'alhpa'"),
        ("no personafile", "project", "fail", "no such file"),
        ("lock", "lock", "fail", ""),
        ("edited", "lock", "warn", "not what Personafile.lock pins"),
        ("link", "memory graph", "warn", "nowhere-at-all"),
        ("tmp", "cache", "warn", "1 temporary folders"),
        ("gpu", "resources", "fail", "task.listen/train needs 64 GPUs"),
        ("memory", "resources", "fail", "task.close/measure needs 9216.0 GiB of memory"),
    ],
)
def test_what_is_wrong_is_found(built: Space, damage: str, name: str, level: str, words: str) -> None:
    if damage == "personafile":
        built.edit("Personafile.toml", "alpha = 1.0", "alhpa = 1.0")
    elif damage == "no personafile":
        (built.root / "Personafile.toml").unlink()
    elif damage == "lock":
        built.write("Personafile.lock", "<<<<<<< ours\n")
    elif damage == "edited":
        assert built.run("pin").code == 0
        built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    elif damage == "link":
        front = '+++\nlinks = [{ target = "nowhere-at-all", strength = 0.5 }]\n+++\n'
        built.write("memory/pattern-listen.md", front + built.read("memory/pattern-listen.md"))
    elif damage == "tmp":
        (built.root / "cache" / "v1" / "tmp" / "99-dead").mkdir(parents=True)
    elif damage == "gpu":
        built.write("recipes/quick.toml", "resources = { gpu = 64 }\n" + built.read("recipes/quick.toml"))
    elif damage == "memory":
        built.write("recipes/quick.toml", 'resources = { memory = "9T" }\n' + built.read("recipes/quick.toml"))
    found = findings(built)
    assert worst(found[name]) == level
    assert words in " ".join(row["what"] for row in found[name])


def test_an_old_or_missing_library_is_named(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_wanted", lambda: {"torch": "99.0", "no-such-library": "1.0", "numpy": "1.0"})
    found = findings(built)
    assert found["torch"][0]["remedy"] == "pip install 'torch>=99.0'"
    assert found["no-such-library"][0]["what"] == "is not installed"
    assert worst(found["numpy"]) == "ok"


def test_a_full_disk_and_a_closed_cache_are_found(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(doctor.shutil, "disk_usage", lambda place: usage(10, 10, 1000))
        assert worst(findings(built)["disk"]) == "fail"
    (built.root / "file").write_text("")
    monkeypatch.setenv("AMYBUILD_CACHE", str(built.root / "file"))
    assert worst(findings(built)["cache"]) == "fail"
