"""The loader: every key is typed and placed, names are suggested, analogies and variants are checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.digest import canonical
from amybuild.errors import InputError
from amybuild.personafile.check import Table, line_of
from amybuild.personafile.gates import GATES
from amybuild.personafile.load import Variant, load
from amybuild.personafile.recipe import FIELDS
from amybuild.personafile.schema import Persona

TEXT = """\
[persona]
name = "tess"
base = "tiny"

[base.tiny]
path = "models/tiny"

[graph]
source = "memory"

[task.listen]
node = "pattern"
recipe = "quick"
alpha = 1.0

[task.close]
query = "key:pattern"
recipe = "quick"
learn = "rejected"
alpha = -0.5

[task.steady]
analogy = { a = "listen", b = "close", c = "listen" }
recipe = "quick"

[steer.joy]
emotion = "joy"

[readout]
layers = [1, 2]
concepts = ["joy", "worry"]

[link]
density = 0.5
"""


def write_project(root: Path, text: str = TEXT) -> Path:
    """A small project that can be planned (its base is no model); returns its Personafile."""
    for folder in ("models/tiny", "recipes", "memory"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "models/tiny/config.json").write_text("{}")
    (root / "recipes/quick.toml").write_text('kind = "task"\nsteps = 3\n[gates]\nmax_neutral_kl = 0.5\n')
    (root / "recipes/caa.toml").write_text('kind = "steer"\n')
    (root / "memory/pattern.md").write_text("I ask.\n\n## talk\n\nSlowly.\n")
    (root / "memory/day.md").write_text('+++\ntype = "episodic"\n+++\nThe boat was out.\n\njoy:9\n')
    (root / "Personafile.toml").write_text(text)
    return root / "Personafile.toml"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


def with_sets(file: Path, *sets: str) -> Persona:
    return load(file, Variant(sets=sets))


def refused(file: Path, *sets: str) -> InputError:
    with pytest.raises(InputError) as caught:
        with_sets(file, *sets)
    return caught.value


# types

_STR = ("3", "2.5", "true", "[]", "{}", "1979-05-27")
_INT = ('"x"', "2.5", "true", "[]", "{}", "nan", "inf")
_FLOAT = ('"x"', "true", "[]", "{}", "nan", "inf", "-inf", "1" + "0" * 400)
_BOOL = ("1", '"true"', "[]")
_WRONG = {str: _STR, int: _INT, float: _FLOAT, bool: _BOOL, object: ("3", '"x"', "[]", "[-1]", "[true]", "[1.5]", "{}")}
_TYPES: dict[str, type] = {
    "persona.name": str,
    "persona.base": str,
    "base.tiny.path": str,
    "base.tiny.sha256": str,
    "graph.source": str,
    "task.listen.node": str,
    "task.close.query": str,
    "task.listen.recipe": str,
    "task.listen.alpha": float,
    "task.steady.analogy.a": str,
    "steer.joy.emotion": str,
    "steer.joy.query": str,
    "readout.query": str,
    "link.method": str,
    "link.density": float,
    "link.lambda": float,
    "link.elect": str,
    "neutral.prompts": int,
    "neutral.heldout": float,
    "neutral.max_new_tokens": int,
    "neutral.temperature": float,
    "neutral.device": str,
    **{f"task.listen.{name}": spec.kind for name, spec in FIELDS["task"].items()},
    **{f"steer.joy.{name}": spec.kind for name, spec in FIELDS["steer"].items()},
    **{f"readout.{name}": spec.kind for name, spec in FIELDS["steer"].items()},
    **{f"task.listen.gates.{name}": bound.kind for name, bound in GATES["task"].items()},
    **{f"gates.{name}": bound.kind for name, bound in GATES["persona"].items()},
}


@pytest.mark.parametrize("path", sorted(_TYPES))
def test_a_wrong_type_names_its_key(file: Path, path: str) -> None:
    for value in _WRONG[_TYPES[path]]:
        error = refused(file, f"{path}={value}")
        assert path.rpartition(".")[2] in f"{error.where} {error.what}", (value, str(error))
        assert len(str(error)) < 400, "a message that can be read"


_TABLES = ("persona", "base", "base.tiny", "graph", "task", "task.listen", "steer.joy", "readout", "link")


@pytest.mark.parametrize("path", _TABLES)
def test_a_table_that_is_none_is_refused(file: Path, path: str) -> None:
    for value in ("3", "[]", '"x"'):
        assert path.rpartition(".")[2] in str(refused(file, f"{path}={value}"))


@pytest.mark.parametrize(
    ("assignment", "word"),
    [
        ("neutral.prompts=0", "prompts"),
        ("neutral.heldout=1.5", "heldout"),
        ("neutral.max_new_tokens=0", "max_new_tokens"),
        ("neutral.temperature=-1", "temperature"),
        ("link.density=0", "density"),
        ("link.density=1.01", "density"),
        ("link.method=tise", "did you mean 'ties'?"),
        ("readout.concepts={top = 0}", "top"),
        ("readout.concepts={top = 3, min_examples = 0}", "min_examples"),
        ("readout.concepts=[1]", "list of strings"),
        ("readout.concepts=[]", "concepts"),
        ("task.listen.rank=0", "rank"),
        ("task.listen.warmup=1.0", "warmup"),
        ("task.listen.learn=both", "learn"),
        ("task.listen.query=all", "exactly one of"),
        ("task.bad name.node=x", "not a name"),
        ("persona.name=a b", "not a name"),
        ("persona.base=tny", "did you mean 'tiny'?"),
        ("base.tiny.hub=a/b", "exactly one of"),
        ("base.tiny.sha256=abc", "64 hex digits"),
        ('base.other={hub = "a/b"}', "pinned revision"),
        ('base.other={wheel = "a>=1", file = "f"}', "exact version"),
        ('base.other={wheel = "a==1"}', "'file' is missing"),
        ('base.other={wheel = ["a==1", "b==1"], file = ["f"]}', "2 wheels and 1 files"),
        ('base.other={wheel = ["a==1", "b"], file = ["f", "g"]}', "exact version"),
        ('base.other={wheel = ["a==1"], file = "f"}', "must be a list"),
        ('task.listen.node="a\\u0000b"', "node"),
        ("task.listen.recipe=quik", "did you mean 'quick'?"),
        ("task.listen.recipe=../recipes/quick", "no recipe"),
        ("task.listen.recipe=caa", "is for steer targets"),
        ("task.listen.stepz=3", "did you mean 'steps'?"),
        ("task.listen.gates.max_kl=3", "unknown key 'max_kl'"),
        ("taks.x=1", "did you mean 'task'?"),
    ],
)
def test_a_bad_value_says_what_is_wrong(file: Path, assignment: str, word: str) -> None:
    assert word in str(refused(file, assignment))


_paths = st.sampled_from([*_TYPES, *_TABLES, "task.new", "neutral", "readout.concepts", "task.steady.analogy"])
_others = ("0", "-1", "0.5", "x", '"\\u0000"', '["joy"]', "{top=3}")
_values = st.sampled_from(sorted({*(value for values in _WRONG.values() for value in values), *_others}))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_paths, _values), min_size=1, max_size=3))
def test_any_change_loads_or_is_an_input_error(file: Path, changes: list[tuple[str, str]]) -> None:
    try:
        persona = with_sets(file, *(f"{path}={value}" for path, value in changes))
    except InputError:
        return
    # every number in it can stand in a key
    canonical([persona.neutral, persona.link.lam, dict(persona.link.params), [t.alpha for t in persona.tasks]])
    for recipe in [*(task.recipe for task in persona.tasks), *(steer.recipe for steer in persona.steers)]:
        canonical([recipe.fields, recipe.gates])


# places


def test_the_line_of_a_key_is_named(tmp_path: Path) -> None:
    def where(old: str, new: str) -> str:
        """The place of the error after `old` became `new`, with the line of the last line of `new` as N."""
        text = TEXT.replace(old, new)
        with pytest.raises(InputError) as caught:
            load(write_project(tmp_path, text))
        line = text[: text.index(new) + len(new)].count("\n") + 1
        return (caught.value.where or "").replace(f"Personafile.toml:{line} ", "N ")

    assert where("density = 0.5", 'density = "x"') == "N [link] density"
    assert where("alpha = -0.5", "alhpa = -0.5") == "N [task.close] alhpa"
    assert where("[link]", "[lnik]") == "N lnik"
    assert where("[link]", "[link]\n[task.listen.gates]\nx = 1") == "N [task.listen.gates] x"
    assert where('a = "listen", b', 'a = "listen", d') == "N [task.steady.analogy]"  # b is missing
    assert where('c = "listen"', "c = 3") == "N [task.steady.analogy] c"
    assert where('node = "pattern"', 'node = "pattern"\ngates.max_neutral_kl = []').startswith("N [task.listen")
    assert where("[task.listen]", '[task."listen"]\nx = 1') == "N [task.listen] x"


def test_an_array_over_several_lines_is_no_header() -> None:
    text = "[a]\nlist = [\n  [1, 2],\n  [3, 4],\n]\nkey = 1\n"
    assert line_of(text, "a", "key") == 6


def test_a_key_nobody_took_is_unknown() -> None:
    table = Table({"alpha": 1, "beta": 2}, "f.toml", "t", "[t]\nalpha = 1\nbeta = 2\n")
    assert table.take("alpha", float) == 1.0
    with pytest.raises(InputError, match=r"f.toml:3 \[t\] beta: unknown key 'beta'"):
        table.done()


@pytest.mark.parametrize(
    "text",
    ["[persona", "a = 1\na = 2\n", 'x = "\\q"\n', "x = " + "[" * 5000, "x = " + "9" * 5000, "\ufeff[persona]\n"],
)
def test_bad_syntax_is_an_input_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        load(write_project(tmp_path, text))
    assert "Personafile.toml" in (caught.value.where or "")


def test_what_is_no_text_is_an_input_error(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    file.write_bytes(b"\xff\xfe[persona]")
    with pytest.raises(InputError, match=r"UTF-8 at byte 0\n  save it as UTF-8"):
        load(file)
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"'persona' is missing\n  add a table \[persona\]"):
        load(file)
    file.unlink()
    with pytest.raises(InputError, match="no such file"):
        load(file)
    file.mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        load(file)


def test_a_file_may_begin_with_the_mark_of_utf_8(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    plain = load(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(file) == plain


# analogies


def analogies(**tasks: tuple[str, str, str]) -> str:
    head = TEXT.partition("[task.listen]")[0] + '[task.leaf]\nnode = "pattern"\nrecipe = "quick"\n'
    return head + "".join(
        f'[task.{name}]\nanalogy = {{ a = "{a}", b = "{b}", c = "{c}" }}\nrecipe = "quick"\n'
        for name, (a, b, c) in tasks.items()
    )


def test_a_cycle_of_analogies_is_printed_as_its_path(tmp_path: Path) -> None:
    loop = {"one": ("leaf", "leaf", "two"), "two": ("three", "leaf", "leaf"), "three": ("leaf", "one", "leaf")}
    text = analogies(top=("leaf", "one", "leaf"), **loop)
    with pytest.raises(InputError, match=r"a cycle: one -> two -> three -> one"):
        load(write_project(tmp_path, text))
    with pytest.raises(InputError, match=r"a cycle: self -> self"):
        load(write_project(tmp_path, analogies(self=("leaf", "self", "leaf"))))


def test_analogies_of_analogies_are_fine_and_unknown_names_are_suggested(tmp_path: Path) -> None:
    rows = {f"t{i}": (f"t{i - 1}", "leaf", f"t{i - 1}") if i else ("leaf", "leaf", "leaf") for i in range(40)}
    assert len(load(write_project(tmp_path, analogies(**rows))).tasks) == 41
    with pytest.raises(InputError, match="did you mean 'leaf'"):
        load(write_project(tmp_path, analogies(one=("leaf", "laef", "leaf"))))


# variants


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.3", 0.3), ("-1", -1.0), (" 2 ", 2.0), ("1e-1", 0.1)],
)
def test_set_reads_toml_values(file: Path, text: str, value: float) -> None:
    persona = with_sets(file, f"task.listen.alpha={text}")
    assert {t.name: t.alpha for t in persona.tasks}["listen"] == value


def test_set_takes_bare_words_and_adds_tables(file: Path) -> None:
    sets = ("task.new.node=pattern", "task.new.recipe = quick", 'task.new.alpha="x"', "task.new.alpha=2")
    persona = with_sets(file, *sets)
    assert persona.tasks[-1].name == "new"
    assert persona.tasks[-1].alpha == 2.0


@pytest.mark.parametrize("text", ["", "=", "alpha", "task..alpha=1", "=1", ".=1"])
def test_set_without_key_or_value_is_refused(file: Path, text: str) -> None:
    assert "--set" in str(refused(file, text))


def test_set_below_a_value_is_refused(file: Path) -> None:
    assert "'alpha' is not a table" in str(refused(file, "task.listen.alpha.x=1"))


def test_set_changes_a_copy_only(file: Path) -> None:
    with_sets(file, "link.density=0.1")
    assert load(file).link.params["density"] == 0.5


@pytest.mark.parametrize(
    ("variant", "linked"),
    [
        (Variant(), ["close", "listen", "steady"]),
        (Variant(without=("listen",)), ["close", "steady"]),
        (Variant(without=("task.listen", "close")), ["steady"]),
        (Variant(only=("listen",)), ["listen"]),
        (Variant(only=("listen", "task.close")), ["close", "listen"]),
        (Variant(only=("listen",), without=("listen",)), []),
    ],
)
def test_only_and_without_choose_what_is_linked(file: Path, variant: Variant, linked: list[str]) -> None:
    persona = load(file, variant)
    assert [t.name for t in persona.linked()] == linked
    assert len(persona.tasks) == 3


def test_a_variant_of_an_unknown_task_is_refused(file: Path) -> None:
    for variant in (Variant(without=("lisen",)), Variant(only=("lisen",))):
        with pytest.raises(InputError, match="did you mean 'listen'"):
            load(file, variant)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ('{ Authorization = "Bearer hush" }', "names no environment variable"),
        ('{ Authorization = "Bearer $1hush" }', "names no environment variable"),
        ('{ "X Key" = "$hush" }', "'X Key' is not the name of a header"),
        ("{ Authorization = 7 }", "must be a string"),
        ('"hush"', "must be a table"),
    ],
)
def test_the_headers_of_a_memory_server(tmp_path: Path, headers: str, says: str) -> None:
    text = TEXT.replace('source = "memory"', f'source = "http://x/mcp"\nheaders = {headers}')
    with pytest.raises(InputError, match=says) as caught:
        load(write_project(tmp_path, text))
    assert "hush" not in caught.value.what or says == "must be a table"
    fine = 'headers = { Authorization = "Bearer ${A_1}", X-Key = "$KEY" }'
    persona = load(write_project(tmp_path, TEXT.replace('source = "memory"', f'source = "http://x/mcp"\n{fine}')))
    assert persona.server.headers == {"Authorization": "Bearer ${A_1}", "X-Key": "$KEY"}
