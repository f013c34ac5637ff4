"""The table [link]: what each method takes, and that the linker's own table says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from amybuild.errors import InputError
from amybuild.link.methods import METHODS as ROWS
from amybuild.link.methods import parse_recipe
from amybuild.personafile.link import METHODS, PARAMETERS
from amybuild.personafile.load import Variant, load
from tests.unit.test_analyze import analyzed
from tests.unit.test_personafile import TEXT, write_project

GOOD = {
    "density": 0.3, "elect": "count", "divide": "none", "scope": "global", "seed": 7, "epsilon": 0.1, "gamma": 0.05,
    "agree": 1, "need": 0.2, "t": 0.4, "per_row": True, "of_deltas": True, "common": 0.7, "inner": "iso_c",
}  # fmt: skip
BARE = TEXT.replace("density = 0.5\n", "")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"), BARE)


def linked(file: Path, *sets: str) -> dict[str, object]:
    link = load(file, Variant(sets=sets)).link
    return {"method": link.method, "lambda": link.lam, **link.params}


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_what_the_linker_takes(file: Path, method: str) -> None:
    stated = {name: GOOD[name] for name in METHODS[method]}
    sets = [f"link.{name}={toml(value)}" for name, value in stated.items()]
    found = linked(file, f"link.method={method}", *sets)
    assert found == {"method": method, "lambda": 1.0, **stated}
    recipe = parse_recipe({**found, "alphas": {"a": 1.0}}, ["a"])
    assert {name: recipe.values[name] for name in stated} == stated
    assert set(recipe.values) == set(stated), "a parameter of the linker that no Personafile can state"
    for name in GOOD.keys() - stated.keys():
        with pytest.raises(InputError, match=f"'{name}' is no parameter of {method}"):
            linked(file, f"link.method={method}", f"link.{name}={toml(GOOD[name])}")


def test_the_two_tables_name_the_same_methods() -> None:
    assert set(METHODS) == set(ROWS)
    assert set(PARAMETERS) == {*GOOD, "adapter_rank", "device"}


def test_what_is_not_stated_is_in_no_key(tmp_path: Path) -> None:
    params = analyzed(tmp_path, BARE).actions["checkpoint/link"].params
    assert set(params) == {"method", "lambda", "alphas"}


def test_a_variant_can_take_a_parameter_out(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    with pytest.raises(InputError, match="'density' is no parameter of linear") as caught:
        linked(file, "link.method=linear")
    assert "--set link.density= takes it out" in str(caught.value)
    assert linked(file, "link.method=linear", "link.density=") == {"method": "linear", "lambda": 1.0}
    assert linked(file, "link.nothing=") == linked(file)


def test_filters_and_depth(file: Path) -> None:
    scale = [{"match": "*.mlp.*", "factor": 0.5}, {"match": "*", "factor": 2.0}]
    found = linked(
        file,
        'link.scale=[{match = "*.mlp.*", factor = 0.5}, {match = "*", factor = 2}]',
        'link.only=["model.layers.*"]',
        "link.depth={first = 0, last = 1}",
    )
    assert found["scale"] == scale
    assert found["only"] == ["model.layers.*"]
    assert found["depth"] == {"first": 0.0, "last": 1.0}
    parse_recipe({**found, "alphas": {"a": 1.0}}, ["a"])


def test_a_vectors_own_factors_come_before_everybodys(tmp_path: Path) -> None:
    sets = ('task.listen.scale=[{match = "*.mlp.*", factor = 0.5}]', 'link.scale=[{match = "*", factor = 2.0}]')
    actions = analyzed(tmp_path, sets=sets).actions
    assert actions["checkpoint/link"].params["scale"] == [
        {"match": "*.mlp.*", "factor": 0.5, "vector": "listen"},
        {"match": "*", "factor": 2.0},
    ]
    assert actions["task.listen/measure"].params["scale"] == [{"match": "*.mlp.*", "factor": 0.5}]
    assert "scale" not in actions["task.close/measure"].params


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("link.methd=ties", "did you mean 'method'?"),
        ("link.method=dare", "did you mean"),
        ("link.densty=0.3", "did you mean 'density'?"),
        ("link.scope=layer", "must be one of tensor, global"),
        ("link.divide=2", "must be a string"),
        ("link.only=[]", "names no tensors"),
        ('link.only=["a", ""]', "must not be empty"),
        ("link.only=[1]", "list of strings"),
        ("link.depth={first = 1}", "'last' is missing"),
        ("link.depth={first = 1, last = 2, middle = 3}", "unknown key 'middle'"),
        ("link.depth=1", "must be a table"),
        ("link.scale=[1]", "list of tables"),
        ('link.scale=[{match = "*", factor = "x"}]', "must be a number"),
        ('link.scale=[{match = "*", factor = 1, vector = "x"}]', "unknown key 'vector'"),
        ("link.adapter_rank=0", "at least 1"),
    ],
)
def test_a_value_that_will_not_do(file: Path, assignment: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        linked(file, assignment)
    assert said in str(caught.value)
    assert "link" in str(caught.value)
