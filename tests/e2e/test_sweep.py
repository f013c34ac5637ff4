"""`amybuild sweep`: every setting measured through the cache, nothing trained, dist/ left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from amybuild.errors import InputError
from amybuild.sweep import Measured, axes_of, best
from tests.harness import Space


def swept(space: Space, *args: str) -> dict[str, Any]:
    result = space.run("sweep", "--json", *args)
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_a_sweep_measures_each_setting_as_a_build_would(built: Space) -> None:
    product = list(built.files("dist"))
    found = swept(built, "link.lambda=0.5,1.0", "task.close.alpha=-0.5,0.4")
    rows = {tuple(row["set"].values()): row for row in found["settings"]}
    assert list(rows) == [("0.5", "-0.5"), ("0.5", "0.4"), ("1.0", "-0.5"), ("1.0", "0.4")]
    assert list(built.files("dist")) == product
    assert rows["1.0", "-0.5"]["ran"] == 0, "the declared setting is in the cache"
    assert rows["0.5", "0.4"]["ran"] == 2, "the link and the persona; no vector is measured alone"
    declared = json.loads((built.product / "persona.json").read_text())["verification"]
    for name, row in declared["behaviours"].items():
        assert rows["1.0", "-0.5"]["gains"][name] == row["gain"]
    assert rows["1.0", "-0.5"]["neutral_kl"] == declared["neutral_kl"]
    build = built.build("--set", "link.lambda=0.5", "--set", "task.close.alpha=0.4")
    assert build.ran == {
        *(f"task.{name}/{step}" for name in ("listen", "close") for step in ("measure", "verify")),
        *("persona/cross", "persona/verify", "persona/drift"),
    }, "only what no setting needs runs"
    worst = [min(row["gains"].values()) for row in found["settings"]]
    assert found["best"] == worst.index(max(worst))


def test_a_second_sweep_runs_nothing_and_says_so(built: Space) -> None:
    axis = "link.density=0.3,0.6"
    first, second = built.run("sweep", axis), built.run("sweep", axis)
    assert first.code == second.code == 0
    assert first.out == second.out
    assert first.err.count("2 ran") == 2
    assert second.err.count("from the cache") == 2
    assert "link.density=0.6" in first.out
    assert "* best (largest smallest gain, neutral KL at most 50" in first.out
    assert "amybuild --set link.density=" in first.out
    assert built.explain()["up_to_date"], "the declared persona is still the built one"
    assert built.run("sweep", axis, "--quiet").err == ""


@pytest.mark.parametrize(
    "axis", ["task.listen.steps=2,3", "neutral.prompts=12,14", "task.close.learn=rejected,continuation"]
)
def test_what_would_train_is_refused_before_anything_runs(built: Space, axis: str) -> None:
    before = list(built.files("cache"))
    result = built.run("sweep", "link.lambda=0.7,0.8", axis)
    assert result.code == 2
    assert "it would train task." in result.err
    assert axis.partition("=")[0] in result.err
    assert [row for row in built.files("cache") if "/objects/" in row[0]] == [r for r in before if "/objects/" in r[0]]


def test_a_project_that_was_never_built_is_told_to_build_first(space: Space) -> None:
    result = space.run("sweep", "link.lambda=1,2")
    assert result.code == 2
    assert "run amybuild first" in result.err


def test_a_bound_on_neutral_text_rules_settings_out(built: Space) -> None:
    found = swept(built, "link.lambda=0.2,40.0")
    kls = [row["neutral_kl"] for row in found["settings"]]
    middle = (kls[0] + kls[1]) / 2
    found = swept(built, "link.lambda=0.2,40.0", "--set", f"task.listen.gates.max_neutral_kl={middle}")
    assert [row["within"] for row in found["settings"]] == [True, False]
    assert found["best"] == 0
    none = built.run("sweep", "link.lambda=40.0", "--set", "task.listen.gates.max_neutral_kl=1e-9")
    assert "no best setting" in none.out
    assert " over" in none.out


def test_a_setting_that_cannot_be_linked_is_a_row_and_the_others_go_on(built: Space) -> None:
    result = built.run("sweep", "--json", 'link.only=["nothing.*"],["model.*"]')
    assert result.code == 1
    found = json.loads(result.out)
    assert "matches no weight" in found["settings"][0]["error"]
    assert found["settings"][1]["error"] is None
    assert found["best"] == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["link.lambda"], "KEY=VALUE"),
        (["link.lambda=1,,2"], "KEY=VALUE"),
        (["link.lambda=1", "link.lambda=2"], "there twice"),
        (["link.lambda=1,2,3", "link.density=0.1,0.2", "--max", "5"], "6 settings, at most 5"),
        (["link.lambda=1", "--max", "0"], "--max"),
        (["link.lamda=1,2"], "did you mean 'lambda'?"),
        (["link.lambda=strong"], "must be a number"),
    ],
)
def test_a_command_line_that_is_wrong(built: Space, args: list[str], said: str) -> None:
    result = built.run("sweep", *args)
    assert result.code == 2
    assert said in result.err


def test_commas_inside_brackets_and_quotes_separate_nothing() -> None:
    assert axes_of(["a.b=[1,2],[3]", 'c={x="1,2", y=[3,4]}, "5,6"']) == [
        ("a.b", ["[1,2]", "[3]"]),
        ("c", ['{x="1,2", y=[3,4]}', '"5,6"']),
    ]
    with pytest.raises(InputError):
        axes_of([])


def test_the_rule_of_the_best() -> None:
    def one(within: bool, **gains: float) -> Measured:
        return Measured(None, gains, None, 0.1, within, 0)  # type: ignore[arg-type]

    found = [one(True, a=0.1, b=0.1), one(True, a=0.9, b=0.0), one(False, a=9.0, b=9.0), one(True)]
    assert best(found, "min") == 0
    assert best(found, "mean") == 1
    assert best(found[2:], "min") is None
