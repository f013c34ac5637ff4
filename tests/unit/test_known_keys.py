"""A key that is remembered is the key that would be found: for any action, however it differs from others."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild import kept
from amybuild.build import Options, Project
from amybuild.digest import digest_value
from amybuild.errors import InputError
from amybuild.graph.graph import Action, NodeSource, PathSource
from amybuild.plan.key import manifest, signature, walk
from amybuild.plan.plan import Identity, Plan, make_plan
from tests.unit.test_personafile import write_project

NAMES = st.sampled_from(["a", "b", "a.b", "lr"])
PLAIN = st.recursive(
    st.sampled_from([0, 1, 1.0, 0.0, -0.0, True, False, None, "1", "", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
ACTIONS = st.builds(
    lambda rule, params, inputs, nodes, source: Action(
        "t/x",
        "t",
        rule,
        params,
        inputs,
        tuple(NodeSource(key, digest, b"") for key, digest in nodes),
        PathSource(Path("x"), source) if source else None,
    ),
    st.sampled_from(["one", "two"]),
    st.dictionaries(NAMES, PLAIN, max_size=2),
    st.dictionaries(NAMES, st.sampled_from(["p", "q"]), max_size=2),
    st.lists(st.tuples(NAMES, st.sampled_from(["d1", "d2"])), max_size=2),
    st.sampled_from(["", "d1"]),
)
CODE = {"one": {"m:f": "1"}, "two": {"m:f": "1", "m:g": "2"}}
KEYS: dict[str, str] = {}  # shared by all examples: whatever is mistaken for another one shows


@given(ACTIONS, st.sampled_from(["o1", "o2"]), st.sampled_from(["1", "2"]))
def test_remembered_keys_are_the_keys(action: Action, output: str, version: str) -> None:
    libraries = {"one": {"torch": version}, "two": {}}
    outputs = {"p": output, "q": "o1"}
    identity = Identity(CODE, libraries, KEYS)
    full = manifest(action.rule, walk(action, outputs, CODE[action.rule], libraries[action.rule]))
    for _ in range(2):
        found = identity.manifest(action, outputs)
        assert found.key == full.key
        assert found.components == full.components


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, Path("x"), object()])
def test_what_is_no_plain_value_is_refused_as_ever(value: Any) -> None:
    action = Action("t/x", "t", "one", {"a": value})
    for _ in range(2):
        with pytest.raises(InputError):
            Identity(CODE, {"one": {}, "two": {}}, {}).manifest(action, {})
    if not isinstance(value, float):
        assert isinstance(value, set) or signature(action, {}, "") is None


@dataclass(frozen=True)
class Made:
    """A result that is a function of its key."""

    output: str


def planned(project: Project) -> Plan:
    """The plan of a project all of whose results are there."""
    return make_plan(project.actions, project.identity, lambda key: Made(digest_value("output", key)))


def facts(plan: Plan) -> dict[str, Any]:
    return {id: (d.state, d.manifest and d.manifest.key, d.output, d.components) for id, d in plan.decisions.items()}


def test_random_edits_plan_alike_with_and_without_what_is_known(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    nodes = sorted((tmp_path / "memory").rglob("*.md"))
    recipe, texts = tmp_path / "recipes/quick.toml", {path: path.read_text() for path in nodes}
    chance = random.Random(11)
    for step in range(40):
        match chance.randrange(4):
            case 0:
                recipe.write_text(f'kind = "task"\nsteps = {chance.randrange(3, 6)}\n')
            case 1:
                path = chance.choice(nodes)
                path.write_text(texts[path])
            case _:
                path = chance.choice(nodes)
                path.write_text(texts[path] + f"\nSentence {chance.randrange(3)}.\n")
        if step % 3 == 0:
            time.sleep(2 * kept.TICK / 1e9)  # else what was written a moment ago is never kept
        project = Project(Options(file=file))
        known = facts(planned(project))
        project.save()
        for name in ("nodes", "keys"):
            (project.store.root / name).rename(project.store.root / f"{name}.away")
        assert facts(planned(Project(Options(file=file)))) == known
        for name in ("nodes", "keys"):
            (project.store.root / f"{name}.away").rename(project.store.root / name)


def test_what_another_program_kept_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_project(tmp_path)
    time.sleep(2 * kept.TICK / 1e9)
    project = Project(Options(file=file))
    planned(project)
    project.save()
    assert Project(Options(file=file)).identity.keys == project.identity.keys != {}
    for name in ("nodes", "keys", "results"):  # in a form that this program does not know
        path = project.store.root / name / project.history.id
        assert path.exists() == (name != "results")
        kept.write(str(path), ("another program", {str(tmp_path / "memory/day.md"): ()}))
    assert Project(Options(file=file)).identity.keys == {}
    project.save()
    monkeypatch.setattr("amybuild.project.source_stats", lambda root: [["another", 1, 2, 3, 4]])
    assert Project(Options(file=file)).identity.keys == {}


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 8, bytes(range(256))])
def test_damage_is_forgotten(tmp_path: Path, data: bytes) -> None:
    file = write_project(tmp_path)
    project = Project(Options(file=file))
    planned(project)
    project.save()
    for name in ("nodes", "keys", "results"):
        path = project.store.root / name / project.history.id
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert facts(planned(Project(Options(file=file)))) == facts(planned(project))
