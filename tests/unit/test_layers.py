"""The shape of the code: which room imports which, how long a file is, and what the no-op path may not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import amybuild
from tests.unit.test_personafile import write_project

ROOT = Path(amybuild.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
BELOW = {
    *("errors", "events", "digest", "personafile", "memory", "graph", "plan", "cache", "execute", "model"),
    *("readout", "actions", "link", "product", "serve", "report"),
}
# room -> what it may import: the table of the design note, and `product`, which joins cache, link and provenance
ALLOWED: dict[str, set[str]] = {
    "value": set(),
    "errors": set(),
    "events": set(),
    "digest": {"errors"},
    "personafile": {"errors", "digest"},
    "memory": {"errors", "digest", "kept"},
    "graph": {"personafile", "memory", "digest", "errors"},
    "plan": {"graph", "digest", "errors"},
    "cache": {"digest", "errors", "kept"},
    "execute": {"plan", "cache", "events", "errors"},
    "model": {"errors", "digest"},
    "readout": {"errors", "digest"},
    "actions": {"model", "readout", "memory", "errors", "digest"},
    "link": {"errors", "digest"},
    "provenance": set(),
    "product": {"provenance", "cache", "link", "personafile", "digest", "errors"},
    "serve": {"model", "link", "errors"},
    "report": {"learned", "events", "plan", "errors"},
    "versions": {"product", "cache", "plan", "personafile", "errors"},
    "kept": set(),
    "noop": {"kept"},
    "evidence": {"kept"},
    "pins": {"versions", "product", "cache", "plan", "personafile", "errors"},
    "snapshots": {"memory", "cache", "personafile", "pins", "digest", "errors"},
    "learned": {"snapshots", "versions", "graph", "memory", "cache", "personafile", "errors"},
    "project": BELOW | {"snapshots", "versions", "evidence", "kept"},
    "perform": {"graph", "execute", "actions"},
    "running": {"perform", "execute", "plan", "cache", "graph", "events", "errors"},
    "amend": {"product", "provenance", "cache", "digest"},
    "compiled": {"project", "product", "running", "evidence", "noop", "graph", "cache", "provenance", "digest", "kept"},
    "edited": {
        *("compiled", "amend", "product", "provenance", "running", "plan", "graph", "memory", "cache", "events"),
        *("digest", "errors", "evidence", "kept", "noop"),
    },
    "build": BELOW | {"project", "running", "versions", "pins", "evidence", "kept"},
    "sweep": {"build", "plan", "events", "errors"},
    "watch": {"personafile", "errors"},
    "doctor": BELOW | {"build", "versions", "pins"},
    "cli": {
        *("build", "edited", "compiled", "sweep", "versions", "pins", "watch", "doctor", "cache", "report", "errors"),
        *("noop", "snapshots", "learned", "memory", "personafile", "serve"),
    },
    "__main__": {"cli"},
    "__init__": set(),
}
HEAVY = ("torch", "transformers", "peft", "networkx", "numba", "numpy", "rich")


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> list[tuple[str, int]]:
    """The rooms a file imports (in functions and under TYPE_CHECKING too), with the line."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.relative_to(ROOT)}:{node.lineno}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "amybuild" else [module]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "amybuild" and len(parts) > 1 and parts[1] != "__version__":
                found.append((parts[1], node.lineno))
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_its_row_allows(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path in FILES
        if room_of(path) == room
        for other, line in imported(path)
        if other not in {room, "value", *ALLOWED[room]}
    ]
    assert not wrong, "\n".join(wrong)


def test_every_file_belongs_to_a_room() -> None:
    assert {room_of(path) for path in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_opens_with_one_sentence(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    if not text.strip():
        assert path.name == "__init__.py"
        return
    first = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    assert first.endswith("."), "a module opens with a sentence that says what it is"


def test_a_plan_imports_nothing_heavy(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    script = f"""
import sys
from pathlib import Path
import amybuild.cli
from amybuild.build import Options, Project
project = Project(Options(file=Path({str(file)!r})))
assert project.plan().decisions
assert project.explain().actions
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_readme_repeats_the_first_sentence_of_every_module() -> None:
    readme = (ROOT.parent / "README.md").read_text()
    for path in FILES:
        if path.name != "__init__.py":
            first = (ast.get_docstring(ast.parse(path.read_bytes())) or "").split("\n\n")[0].replace("\n", " ")
            assert first.rstrip(".") in readme, f"{path.name}: run python bench/tree.py"
