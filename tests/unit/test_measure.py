"""Measuring and judging on a tiny base: one vector at shares of its strength, the persona, pairs, and their gates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from amybuild.actions import baseline, cross, measure, persona_measure, persona_verify, verify
from amybuild.actions.context import ActionContext
from amybuild.actions.degeneracy import account
from amybuild.actions.gates import ALONE, LINKED, failures, hold
from amybuild.errors import ActionError, InputError
from amybuild.link import combine
from amybuild.model.generate import Reply
from amybuild.personafile.gates import GATES
from tests.tiny import make_tiny_base, write_jsonl
from tests.unit.test_actions_train import MEASURED, files, go, load, world

__all__ = ["world"]
CASES = {
    "max_neutral_kl": 0.0,
    "max_ppl_ratio": 0.5,
    "max_own_kl": 0.0,
    "max_length_ratio": 0.0,
    "min_margin_gain": 99.0,
    "min_prose_gain": 99.0,
    "min_length_ratio": 99.0,
    "min_end_of_turn": 1.0,
    "max_repetition": 0.0,
}


def measured(world: Mapping[str, Path], out: Path, **params: Any) -> Any:
    return load(go(measure.run, out, {"alpha": 1.0, **MEASURED, **params}, world) / "measure.json")


@pytest.fixture(scope="module")
def found(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return measured(world, tmp_path_factory.mktemp("measured") / "m", alpha=2.0)


def judged(tmp: Path, measured: Any, gates: Mapping[str, Any]) -> Any:
    (tmp / "m").mkdir(exist_ok=True)
    (tmp / "m/measure.json").write_text(json.dumps(measured))
    return load(go(verify.run, tmp / "v", {"gates": gates}, {"measure": tmp / "m"}) / "verify.json")


def test_a_vector_is_measured_at_shares_of_its_strength(world: dict[str, Path], tmp_path: Path, found: Any) -> None:
    base = load(world["baseline"] / "baseline.json")
    assert found["base"] == base
    assert found["gain"] == pytest.approx(found["alone"]["margin"] - base["margin"])
    assert found["prose_gain"] == pytest.approx(found["prose"]["margin"] - base["prose"]["margin"])
    assert [share for share, _ in found["shares"]] == [0, 0.25, 0.5, 1]
    assert found["shares"][0][1] == base["margin"]
    assert found["shares"][3][1] == found["alone"]["margin"]
    assert found["pairs"] == 2
    assert base["margin_counter"] is not None
    assert min(found["neutral_kl"], found["own_kl"]) > 0
    half = measured(world, tmp_path / "half", **{"alpha": 4.0, "lambda": 0.25})
    assert half["alone"]["margin"] == pytest.approx(found["shares"][2][1], abs=1e-4)
    assert half["neutral_kl"] < found["neutral_kl"]
    assert measured(world, tmp_path / "minus", alpha=-2.0)["gain"] * found["gain"] < 0


def test_no_strength_is_the_base_in_every_number(world: dict[str, Path], tmp_path: Path) -> None:
    none = measured(world, tmp_path / "none", **{"lambda": 0.0})
    for name in ("gain", "prose_gain", "neutral_kl", "own_kl"):
        assert none[name] == pytest.approx(0, abs=1e-5), name
    assert none["ppl_ratio"] == pytest.approx(1, abs=1e-5)
    assert none["samples"] == none["base"]["samples"]
    assert none["length_ratio"] == 1


def test_measuring_twice_gives_the_same_bits_and_no_samples_are_no_numbers(
    world: dict[str, Path], tmp_path: Path
) -> None:
    again = [files(go(measure.run, tmp_path / name, {"alpha": 1.0, **MEASURED}, world)) for name in "ab"]
    assert again[0] == again[1]
    assert measured(world, tmp_path / "none", samples=0)["samples"] == {}


def test_prose_is_another_form_of_the_same_cases(found: Any) -> None:
    base = found["base"]
    assert base["prose"]["margin"] != pytest.approx(base["margin"])
    assert (base["prose"]["margin_counter"] is None) == (base["margin_counter"] is None)


def test_an_analogy_of_equals_is_the_vector_itself(world: dict[str, Path], tmp_path: Path) -> None:
    out = go(combine.run, tmp_path / "out", {}, dict.fromkeys("abc", world["vector"]))
    assert load(out / "adapter_config.json")["r"] == 6
    inputs = {"base": world["base"], "neutral": world["neutral"]}
    inputs["baseline"] = go(baseline.run, tmp_path / "baseline", MEASURED, inputs)
    combined = measured({**inputs, "vector": out}, tmp_path / "m")
    assert "gain" not in combined
    alone = measured({**inputs, "vector": world["vector"]}, tmp_path / "n")
    assert combined["neutral_kl"] == pytest.approx(alone["neutral_kl"], rel=1e-2)
    assert judged(tmp_path, combined, {"min_margin_gain": 9.0, "monotone": True})["passed"], "no number, no gate"


def test_what_repeats_itself_or_does_not_end(tmp_path: Path) -> None:
    once, stuck = Reply((1, 2, 3, 4, 5), True), Reply((7, 7, 7, 7, 7, 7, 7), False)
    assert account([once]) == {"prompts": 1, "repetition": 0, "length": 5, "end_of_turn": 1}
    assert account([stuck])["repetition"] == pytest.approx(4 / 5)
    both = account([once, stuck])
    assert (both["length"], both["end_of_turn"], both["repetition"]) == (6, 0.5, pytest.approx(4 / 8))
    assert account([Reply((1,), True), Reply((), True)])["repetition"] == 0


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_failed_gate_names_number_gate_and_remedy(tmp_path: Path, found: Any, name: str) -> None:
    found = {**found, "samples": {**found["samples"], "repetition": 0.5, "end_of_turn": 0.5}}
    with pytest.raises(ActionError, match=f"{name} = {CASES[name]:g}") as caught:
        judged(tmp_path, found, {name: CASES[name]})
    assert caught.value.where == "task.x/step"
    assert "or change the gate" in str(caught.value.remedy)
    assert not any((tmp_path / "v").iterdir())
    loose = {"min": -99.0, "max": 99.0}[name[:3]]
    assert judged(tmp_path, found, {name: loose})["gates"] == {name: loose}


def test_all_gates_that_fail_are_named_at_once(tmp_path: Path, found: Any) -> None:
    gates = {**dict.fromkeys(("max_neutral_kl", "max_own_kl"), 0.0), "min_margin_gain": 99.0, "min_prose_gain": -99.0}
    with pytest.raises(ActionError, match="3 gates fail") as caught:
        judged(tmp_path, found, gates)
    assert all(name in str(caught.value) for name in ("max_neutral_kl", "max_own_kl", "min_margin_gain"))
    assert "min_prose_gain" not in str(caught.value)


def test_a_margin_that_falls_again_fails_where_it_must_rise(tmp_path: Path, found: Any) -> None:
    bent = {**found, "shares": [[0, 0.1], [0.25, 0.3], [0.5, 0.2], [1, 0.4]], "monotone": False}
    with pytest.raises(ActionError, match=r"\+0.2000 at 0.5 of it\D+monotone = true|monotone = true"):
        judged(tmp_path, bent, {"monotone": True})
    assert judged(tmp_path, bent, {"monotone": False})["passed"]
    assert judged(tmp_path, {**bent, "monotone": True}, {"monotone": True})["passed"]


def test_no_number_passes_no_gate() -> None:
    assert failures(ALONE, {"neutral_kl": float("nan")}, {"max_neutral_kl": 9.0})
    assert not failures(ALONE, {}, {"max_neutral_kl": 0.0})
    hold("x", [])


def test_the_gates_of_a_recipe_are_those_that_something_holds(tmp_path: Path, found: Any) -> None:
    assert set(GATES["task"]) == {*verify.NAMES, "max_cross_share"}
    assert set(GATES["persona"]) == set(persona_verify.NAMES)
    assert {gate.name for gate in LINKED} < set(persona_verify.NAMES)
    with pytest.raises(InputError, match="unknown gate"):
        judged(tmp_path, found, {"max_kl": 1.0})


@pytest.fixture(scope="module")
def persona(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A linked persona measured, with two behaviours and their vectors measured alone and on each other."""
    root = tmp_path_factory.mktemp("persona")
    rows = [json.loads(line) for line in (world["corpus"] / "heldout.jsonl").open()]
    others = [{**row, "continuation": "No.", "id": f"{row['id']}9"} for row in rows]
    write_jsonl(root / "corpus/heldout.jsonl", others)
    second = {**world, "corpus": root / "corpus"}
    second["baseline"] = go(baseline.run, root / "baseline", MEASURED, second)
    found = {
        "base": world["base"],
        "checkpoint": make_tiny_base(root / "checkpoint", seed=5),
        "neutral": world["neutral"],
        **{f"{step}.x": world[step] for step in ("corpus", "baseline")},
        **{f"{step}.y": second[step] for step in ("corpus", "baseline")},
        "vector.x": world["vector"],
        "vector.y": world["vector"],
    }
    found["measure"] = go(persona_measure.run, root / "measure", {"threads": 1}, found)
    found["solo.x"] = go(measure.run, root / "x", {"alpha": 1.0, **MEASURED}, world)
    found["solo.y"] = go(measure.run, root / "y", {"alpha": 1.0, **MEASURED}, second)
    found["cross"] = go(cross.run, root / "cross", CROSS, found)
    return found


CROSS: dict[str, Any] = {
    "alphas": {"x": 1.0, "y": 1.0},
    "lambda": 1.0,
    "scale": {},
    "how": {"x": {"threads": 1}, "y": {"threads": 1}},
    "max_tokens": {"x": 192, "y": 192},
}


def gate(persona: Mapping[str, Path], out: Path, gates: Mapping[str, float], **bounds: float) -> Any:
    inputs = {"measure": persona["measure"], "cross": persona["cross"]}
    inputs |= {f"vector.{name}": persona[f"solo.{name}"] for name in "xy"}
    return load(go(persona_verify.run, out, {"gates": gates, "cross": bounds}, inputs) / "verify.json")


def test_the_persona_is_measured_beside_the_base_and_the_vectors(persona: dict[str, Path], tmp_path: Path) -> None:
    found = gate(persona, tmp_path / "out", {})
    solo = load(persona["solo.x"] / "measure.json")
    row = found["behaviours"]["x"]
    assert row["base"] == load(persona["baseline.x"] / "baseline.json")["margin"]
    assert row["gain"] == pytest.approx(row["persona"] - row["base"])
    assert (row["alone"], row["gain_alone"]) == (solo["alone"]["margin"], solo["gain"])
    assert row["kept"] == (pytest.approx(row["gain"] / solo["gain"]) if solo["gain"] > 0 else None)
    assert found["neutral_kl"] > 0
    assert found["ppl_ratio"] != 1
    assert found["cross"]["x"]["x"] == solo["gain"]
    inputs = {role: path for role, path in persona.items() if role != "baseline.x"}
    with pytest.raises(ActionError, match="no measurement there"):
        go(persona_measure.run, tmp_path / "m", {}, inputs)


def test_the_gates_of_the_persona(persona: dict[str, Path], tmp_path: Path) -> None:
    measured = load(persona["measure"] / "measure.json")
    kl = measured["neutral_kl"]
    for gates, text in (
        ({"max_neutral_kl": kl / 2}, "max_neutral_kl = "),
        ({"max_ppl_ratio": 0.0}, "max_ppl_ratio = 0"),
        ({"min_kept": 1e9}, "of its solo gain"),
    ):
        with pytest.raises(ActionError, match=text):
            gate(persona, tmp_path / "out", gates)
    assert gate(persona, tmp_path / "out", {"max_neutral_kl": kl * 2})["passed"]
    with pytest.raises(ActionError, match=r"x moves y by .* max_cross_share = 0"):
        gate(persona, tmp_path / "out", {}, x=0.0)
    with pytest.raises(ActionError, match="2 gates fail"):
        gate(persona, tmp_path / "out", {"max_neutral_kl": 0.0}, x=0.0)


def test_an_effect_on_another_is_what_measuring_the_vector_there_gives(
    persona: dict[str, Path], world: dict[str, Path], tmp_path: Path
) -> None:
    there = {**world, "corpus": persona["corpus.y"], "baseline": persona["baseline.y"]}
    assert load(persona["cross"] / "cross.json")["effects"]["x"] == {"y": measured(there, tmp_path / "m")["gain"]}


def test_only_pairs_that_are_new_are_measured(
    persona: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = cross._measured

    def counted(*args: Any) -> float:
        asked.append(args[2])
        return real(*args)

    monkeypatch.setattr(cross, "_measured", counted)
    digests = {role: f"digest of {role}" for role in persona}

    def run(params: Mapping[str, Any]) -> dict[str, Any]:
        asked.clear()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        cross.run(
            ActionContext("persona/cross", "k", params, persona, tmp_path / "out", digests=digests, memo=tmp_path)
        )
        found: dict[str, Any] = load(tmp_path / "out/cross.json")["effects"]
        return found

    first = run(CROSS)
    assert sorted(asked) == ["x", "y"]
    assert run(CROSS) == first
    assert asked == []
    digests["corpus.y"] = "of an edited corpus"
    run(CROSS)
    assert asked == ["y"], "the column; its row is new when its vector is"
    digests["vector.y"] = "of another vector"
    run(CROSS)
    assert asked == ["x"]
    assert run({**CROSS, "alphas": {"x": 2.0, "y": 1.0}})["x"] != first["x"]
    assert asked == ["y"]
    for file in (tmp_path / "cross").rglob("*"):
        if file.is_file():
            file.write_bytes(b"torn")
    assert run(CROSS) == first
    assert sorted(asked) == ["x", "y"]
