"""Recipes: defaults, the recipe's fields, the target's overrides, and where each value came from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import amybuild
from amybuild.errors import InputError
from amybuild.graph import analyze
from amybuild.model.train import Settings
from amybuild.personafile.check import Table
from amybuild.personafile.gates import GATES
from amybuild.personafile.load import read_toml
from amybuild.personafile.recipe import FIELDS, RecipeBook
from amybuild.personafile.schema import Recipe

_INTS = ("rank", "steps", "batch", "replay_batch", "min_examples")
_some = st.dictionaries(st.sampled_from(_INTS), st.integers(1, 99))
_gates = st.fixed_dictionaries(
    {}, optional={name: st.booleans() if one.kind is bool else st.floats(0, 1) for name, one in GATES["task"].items()}
)


def resolve(tmp: Path, recipe: str, own: dict[str, object]) -> Recipe:
    (tmp / "r.toml").write_text(recipe)
    target = Table(own, "Personafile.toml", "task.x")
    found = RecipeBook(tmp, read_toml).resolve("r", "task", target)
    target.done()
    return found


@given(recipe=_some, own=_some, recipe_gates=_gates, own_gates=_gates)
def test_the_target_wins_over_the_recipe_over_the_default(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: dict[str, int],
    own: dict[str, int],
    recipe_gates: dict[str, float],
    own_gates: dict[str, float],
) -> None:
    lines = ['kind = "task"', *(f"{k} = {v}" for k, v in recipe.items())]
    lines += ["[gates]", *(f"{k} = {v!r}".lower() for k, v in recipe_gates.items())]
    folder = tmp_path_factory.getbasetemp() / "recipes"
    folder.mkdir(exist_ok=True)
    found = resolve(folder, "\n".join(lines), {**own, "gates": own_gates})
    for name, spec in FIELDS["task"].items():
        assert found.fields[name] == own.get(name, recipe.get(name, spec.default))
        assert found.origins[name] == ("param" if name in own else "recipe")
    for name, bound in GATES["task"].items():
        assert found.gates.get(name) == own_gates.get(name, recipe_gates.get(name, bound.default))
        assert found.origins[f"gates.{name}"] == ("param" if name in own_gates else "recipe")


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_every_default_satisfies_its_own_rule(kind: str) -> None:
    for name, spec in FIELDS[kind].items():
        assert spec.ok(spec.default), name
        assert isinstance(spec.default, spec.kind), name


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ("steps = 3\n", "kind"),
        ('kind = "tsak"\n', "did you mean 'task'?"),
        ('kind = "task"\nstesp = 3\n', "r.toml:2 stesp"),
        ('kind = "task"\nsteps = "3"\n', "r.toml:2 steps"),
        ('kind = "task"\nsteps = 0\n', "must be at least 1, not 0"),
        ('kind = "task"\nlr = nan\n', "lr"),
        ('kind = "task"\nlr = inf\n', "lr"),
        ('kind = "task"\nreading = "mean"\n', "reading"),
        ('kind = "task"\n[gates]\nmax_neutral_kl = "low"\n', "max_neutral_kl"),
        ('kind = "task"\n[gates]\nmax_neutral_kl = inf\n', "max_neutral_kl"),
        ('kind = "task"\n[gates]\nmonotone = 1\n', "must be true or false"),
        ('kind = "task"\n[gates]\nmax_repetition = 1.5\n', "must lie between 0 and 1"),
        ('kind = "task"\n[gates]\nmax_own_kl = -1\n', "must be at least 0"),
        ('kind = "task"\ngates = 3\n', "gates"),
        ('kind = "task"\ndescription = 3\n', "description"),
        ('kind = "task\n', "/r.toml: not valid TOML"),
        ("steps = 3\n", '\'kind\' is missing\n  kind = "task" or kind = "steer"'),
        ('kind = "steer"\n', "is for steer targets, not task"),
    ],
)
def test_a_bad_recipe_says_where(tmp_path: Path, recipe: str, word: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(tmp_path, recipe, {})
    assert word in str(caught.value)


def test_layers_are_auto_or_sorted_indices(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('kind = "steer"\nlayers = [5, 1, 5]\n')
    recipes = RecipeBook(tmp_path, read_toml)
    assert recipes.resolve("r", "steer", Table({}, "f", "steer.x")).fields["layers"] == [1, 5]
    own = Table({"layers": "auto"}, "f", "steer.x")
    assert recipes.resolve("r", "steer", own).fields["layers"] == "auto"
    assert recipes.resolve("r", "steer", own).origins["layers"] == "param"


def test_without_any_recipe_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipes here: none"):
        RecipeBook(tmp_path / "recipes", read_toml).resolve("r", "task", Table({}, "f", "task.x"))


SHIPPED = sorted(path.stem for path in (Path(amybuild.__file__).parent.parent / "recipes").glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_one_and_says_what_it_is_for(name: str) -> None:
    folder = Path(amybuild.__file__).parent.parent / "recipes"
    kind = read_toml(folder / f"{name}.toml")[0]["kind"]
    found = RecipeBook(folder, read_toml).resolve(name, kind, Table({}, "Personafile.toml", "task.x"))
    if kind == "task":
        Settings.of(found.fields)


def test_every_field_that_the_loop_reads_can_be_said_in_a_recipe_and_reaches_it() -> None:
    inner = {"beta1", "beta2", "explode"}
    loop = {field.name: field.default for field in fields(Settings) if field.name not in inner}
    assert loop.keys() <= FIELDS["task"].keys()
    assert loop.keys() <= set(analyze._TRAIN)
    assert {*analyze._TRAIN, *analyze._CORPUS, *analyze._MEASURE} == FIELDS["task"].keys()


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"shards": 2}, "device = 'auto'"),
        ({"shards": 2, "device": "cpu", "tune": "full"}, "tune = 'full'"),
        ({"shards": 2, "device": "cuda", "top_layers": 3}, "top_layers = 3"),
    ],
)
def test_shards_refuse_what_a_base_in_parts_cannot_do(tmp_path: Path, own: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=f"shards = 2 does not go with {words}") as caught:
        resolve(tmp_path, 'kind = "task"', own)
    assert caught.value.remedy
    assert resolve(tmp_path, 'kind = "task"', {**own, "shards": 1}).fields["shards"] == 1
    assert resolve(tmp_path, 'kind = "task"\nshards = 4', {"device": "cpu"}).fields["shards"] == 4
