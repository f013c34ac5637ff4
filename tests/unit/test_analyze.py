"""Analysis: a Personafile and a memory graph become the right actions, in an order that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from amybuild.digest import canonical
from amybuild.errors import InputError
from amybuild.graph.analyze import analyze
from amybuild.graph.graph import Action, ActionGraph
from amybuild.graph.rules import RULES
from amybuild.memory.graph import read_graph
from amybuild.personafile.load import Variant, load
from tests.unit.test_personafile import TEXT, write_project


def analyzed(root: Path, text: str = TEXT, **variant: tuple[str, ...]) -> ActionGraph:
    persona = load(write_project(root, text), Variant(**variant))
    return analyze(persona, read_graph(persona.graph, persona.root), lambda path: f"digest of {path.name}")


def test_the_actions_of_a_small_persona(tmp_path: Path) -> None:
    graph = analyzed(tmp_path)
    needs = {id: sorted(one.needs) for id, one in graph.actions.items()}
    base, neutral = "base.tiny/import", "base.tiny/neutral"
    told = [f"task.{name}/{step}" for name in ("listen", "close") for step in ("baseline", "corpus")]
    vectors = ["task.listen/train", "task.close/train", "task.steady/combine"]
    assert needs == {
        base: [],
        neutral: [base],
        "task.listen/corpus": [],
        "task.listen/train": sorted([base, neutral, "task.listen/corpus"]),
        "task.listen/baseline": sorted([base, neutral, "task.listen/corpus"]),
        "task.listen/measure": sorted(
            [base, neutral, *(f"task.listen/{step}" for step in ("baseline", "corpus", "train"))]
        ),
        "task.listen/verify": ["task.listen/measure"],
        "task.close/corpus": [],
        "task.close/train": sorted([base, neutral, "task.close/corpus"]),
        "task.close/baseline": sorted([base, neutral, "task.close/corpus"]),
        "task.close/measure": sorted(
            [base, neutral, *(f"task.close/{step}" for step in ("baseline", "corpus", "train"))]
        ),
        "task.close/verify": ["task.close/measure"],
        "task.steady/combine": [base, "task.close/train", "task.listen/train"],
        "task.steady/baseline": [base, neutral],
        "task.steady/measure": [base, neutral, "task.steady/baseline", "task.steady/combine"],
        "task.steady/verify": ["task.steady/measure"],
        "steer.joy/texts": [],
        "steer.joy/activations": [base, neutral, "steer.joy/texts"],
        "steer.joy/labels": [],
        "steer.joy/vectors": ["steer.joy/activations", "steer.joy/labels"],
        "steer.joy/quality": ["steer.joy/activations", "steer.joy/labels", "steer.joy/texts", "steer.joy/vectors"],
        "readout/texts": [],
        "readout/activations": [base, neutral, "readout/texts"],
        "readout/labels": [],
        "readout/vectors": ["readout/activations", "readout/labels"],
        "readout/quality": ["readout/activations", "readout/labels", "readout/texts", "readout/vectors"],
        "persona/drift": [
            *("checkpoint/link", "readout/activations", "readout/labels", "readout/texts", "readout/vectors"),
        ],
        "checkpoint/link": sorted(
            [
                *(base, "task.listen/train", "task.close/train", "task.steady/combine"),
                *(f"task.{name}/verify" for name in ("listen", "close", "steady")),
            ]
        ),
        "persona/measure": sorted([base, neutral, "checkpoint/link", *told]),
        "persona/cross": sorted([base, *vectors, *told]),
        "persona/verify": sorted(
            ["persona/cross", "persona/measure", *(f"task.{name}/measure" for name in ("listen", "close", "steady"))]
        ),
    }


def test_every_action_can_be_keyed_and_run(tmp_path: Path) -> None:
    graph = analyzed(tmp_path)
    before: set[str] = set()
    for id, one in graph.actions.items():
        assert set(one.needs) <= before, "producers come first"
        before.add(id)
        assert one.rule in RULES
        assert id.startswith(f"{one.target}/")
        canonical(dict(one.params))
        assert set(one.origins) <= set(one.params)
    assert set(graph.select(())) == set(graph.actions)


def test_roles_and_coefficients(tmp_path: Path) -> None:
    graph = analyzed(tmp_path)
    combine = graph.actions["task.steady/combine"]
    assert combine.inputs == {
        "base": "base.tiny/import",
        "a": "task.listen/train",
        "b": "task.close/train",
        "c": "task.listen/train",
    }
    link = graph.actions["checkpoint/link"]
    assert link.params["alphas"] == {"close": -0.5, "listen": 1.0, "steady": 1.0}
    assert not any(role.startswith("verify") for role in link.inputs), "the gates go before, they are not in the key"
    assert graph.actions["task.close/measure"].params["alpha"] == -0.5
    train = graph.actions["task.close/train"]
    assert (train.params["learn"], train.origins["learn"]) == ("rejected", "param")
    assert (train.params["steps"], train.origins["steps"]) == (3, "recipe")
    assert graph.actions["base.tiny/import"].source is not None


def test_alpha_reaches_what_measures_the_vector_and_the_link_only(tmp_path: Path) -> None:
    one, other = analyzed(tmp_path), analyzed(tmp_path, sets=("task.listen.alpha=0.3",))
    changed = {id for id in one.actions if one.actions[id].params != other.actions[id].params}
    assert changed == {"task.listen/measure", "persona/cross", "checkpoint/link"}


def test_gates_reach_the_actions_that_hold_them_only(tmp_path: Path) -> None:
    one = analyzed(tmp_path)
    for key, action in (
        ("task.listen.gates.monotone=true", "task.listen/verify"),
        ("task.listen.gates.max_cross_share=0.5", "persona/verify"),
        ("gates.min_kept=0.5", "persona/verify"),
    ):
        other = analyzed(tmp_path, sets=(key,))
        assert {id for id in one.actions if one.actions[id].params != other.actions[id].params} == {action}, key


def test_a_section_is_a_source_of_its_own(tmp_path: Path) -> None:
    whole = analyzed(tmp_path).actions["task.listen/corpus"].nodes
    part = analyzed(tmp_path, sets=("task.listen.node=pattern#talk",)).actions["task.listen/corpus"].nodes
    assert [n.key for n in whole] == ["pattern"]
    assert [n.key for n in part] == ["pattern#talk"]
    (tmp_path / "memory/pattern.md").write_text("I ask twice.\n\n## talk\n\nSlowly.\n")
    persona = load(tmp_path / "Personafile.toml", Variant(sets=("task.listen.node=pattern#talk",)))
    again = analyze(persona, read_graph("memory", tmp_path), str).actions["task.listen/corpus"].nodes
    assert [n.digest for n in again] == [n.digest for n in part], "an edit beside it is no edit of it"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("task.listen.node=patern", ("did you mean 'pattern'?", "[task.listen] node")),
        ("task.listen.node=pattern#tlak", ("did you mean 'talk'?", "[task.listen] node")),
        ("task.close.query=key:nothing-*", ("matches no node", "[task.close] query")),
        (
            "task.close.query=all | typ:x",
            ("[task.close] query, column 7: 'typ' is no field", "\n        ^\n", "'type'"),
        ),
        ("steer.joy.query=type:none", ("matches no node", "[steer.joy] query")),
        ("readout.query=sort:wieght", ("[readout] query, column 6: 'wieght'", "did you mean 'weight'")),
        ("base.tiny.path=models/none", ("no such file", "[base.tiny] path")),
    ],
)
def test_what_is_not_there_is_named_with_its_place(tmp_path: Path, assignment: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        analyzed(tmp_path, sets=(assignment,))
    for word in words:
        assert word in str(caught.value)


def test_a_variant_leaves_out_what_it_does_not_link(tmp_path: Path) -> None:
    chosen = set(analyzed(tmp_path, only=("listen",)).select(()))
    assert "task.listen/train" in chosen
    assert not any(id.startswith(("task.close", "task.steady")) for id in chosen)
    nothing = analyzed(tmp_path, only=("listen",), without=("listen",)).actions["checkpoint/link"]
    assert nothing.params["alphas"] == {}


# selections


def test_a_selection_is_closed_and_in_order(tmp_path: Path) -> None:
    graph = analyzed(tmp_path)
    chosen = list(graph.select(["task.steady"]))
    assert chosen == [id for id in graph.actions if id in set(chosen)]
    assert all(need in chosen for id in chosen for need in graph.actions[id].needs)
    assert "task.close/verify" not in chosen
    assert list(graph.select(["task.close/corpus"])) == ["task.close/corpus"]
    assert set(graph.select(["persona"])) == set(graph.select([]))


def test_persona_beside_other_targets_hides_none_of_them(tmp_path: Path) -> None:
    graph = analyzed(tmp_path, without=("close", "steady"))
    assert "task.close/verify" not in graph.select(["persona"])
    assert "task.close/verify" in graph.select(["persona", "task.close"])
    with pytest.raises(InputError):
        graph.select(["persona", "task.nothing"])


@pytest.mark.parametrize(
    ("name", "near"), [("task.lisen", "task.listen"), ("listen", "task.listen"), ("raedout", "readout")]
)
def test_an_unknown_target_is_suggested(tmp_path: Path, name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{near}'"):
        analyzed(tmp_path).select([name])


def test_a_graph_refuses_what_is_twice_or_has_no_producer() -> None:
    graph = ActionGraph()
    graph.add(Action("a/x", "a", "base", {}))
    with pytest.raises(AssertionError):
        graph.add(Action("a/x", "a", "base", {}))
    with pytest.raises(AssertionError):
        graph.add(Action("b/x", "b", "base", {}, {"in": "c/x"}))


def test_each_shard_of_a_training_needs_a_gpu(tmp_path: Path) -> None:
    def needs(lines: str) -> dict[str, int]:
        text = TEXT.replace("[task.listen]\n", f"[task.listen]\n{lines}\n")
        return dict(analyzed(tmp_path, text).actions["task.listen/train"].resources)

    assert "gpu" not in needs("")
    assert needs('shards = 2\ndevice = "cuda"')["gpu"] == 2
    assert needs('shards = 2\ndevice = "cuda"\nresources = { gpu = 3 }')["gpu"] == 3
    assert "gpu" not in needs('shards = 2\ndevice = "cpu"')


def test_a_base_in_several_wheels_is_one_import(tmp_path: Path) -> None:
    wheels = 'wheel = ["a-1==1.0", "a-2==1.0"]\nfile = ["a/m.gguf.part1", "a/m.gguf.part2"]'
    action = analyzed(tmp_path, TEXT.replace('path = "models/tiny"', wheels)).actions["base.tiny/import"]
    assert action.params["wheel"] == ["a-1==1.0", "a-2==1.0"]
    assert action.params["file"] == ["a/m.gguf.part1", "a/m.gguf.part2"]
    assert canonical(dict(action.params))
