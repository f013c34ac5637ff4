"""Code identity: what a rule can reach counts, and nothing else; formatting, comments and docstrings do not."""

from __future__ import annotations

from pathlib import Path

import pytest

import amybuild
from amybuild.graph.rules import RULES
from amybuild.plan.code import CodeIndex, library_versions, source_stats

ROOT = Path(amybuild.__file__).parent

ACTION = '''\
"""A module."""
from pkg.helpers import helper, SIZE
from pkg import shapes, registry
import pkg.deep.inner
import pkg.deep.other as other


def run(ctx):
    """Docs."""
    from pkg.lazy import late
    return helper(ctx) + SIZE + shapes.area(2) + late() + pkg.deep.inner.low() + other.high() + local(3) + first()


def first():
    return registry.TABLE["a"]()


def local(n):
    return n if n < 1 else local(n - 1)


def unrelated():
    return forgotten()


def forgotten():
    return 1
'''
HELPERS = """\
import functools
from pkg.bases import Base, plus

SIZE = 3
DEFAULT = 4
FACTOR = 10
UNUSED = 5


def decorate(function):
    return function


@decorate
def helper(x, y=DEFAULT):
    return Child().method() + scale(x) + y


class Child(Base):
    factor = FACTOR

    def method(self):
        return self.factor


def scale(x):
    return x * plus(1)


def quiet():
    return 0
"""
PACKAGE = {
    "__init__": "",
    "action": ACTION,
    "helpers": HELPERS,
    "bases": "from pkg.more import plus\n\n\nclass Base:\n    def inherited(self):\n        return 1\n",
    "more": "def plus(x):\n    return x + 1\n\n\ndef minus(x):\n    return x - 1\n",
    "shapes": "def area(x):\n    return x * x\n\n\ndef girth(x):\n    return 4 * x\n",
    "lazy": "def late():\n    return 7\n",
    "deep/__init__": "",
    "deep/inner": "def low():\n    return 1\n\n\ndef lower():\n    return 0\n",
    "deep/other": "def high():\n    return 1\n",
    "registry": "from pkg.entries import first\n\nTABLE = {}\nOTHER = 1\nTABLE['a'] = first\n",
    "entries": "def first():\n    return 1\n\n\ndef second():\n    return 2\n",
}


def closure(tmp: Path, edits: dict[str, str] | None = None, entry: str = "pkg.action:run") -> dict[str, str]:
    """The closure of `entry` in PACKAGE with the modules of `edits` replaced."""
    root = tmp / "pkg"
    for name, text in {**PACKAGE, **(edits or {})}.items():
        (root / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(text)
    return CodeIndex(root, "pkg").closure(entry)


def edited(module: str, old: str, new: str) -> dict[str, str]:
    assert PACKAGE[module].count(old) == 1, (module, old)
    return {module: PACKAGE[module].replace(old, new)}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("action", "    return helper(ctx)", "    # a comment\n    return (  helper( ctx ))"),
        ("action", '    """Docs."""\n', '    """Other docs,\n    longer."""\n'),
        ("action", '    """Docs."""\n', ""),
        ("action", '"""A module."""\n', '"""Another\nsentence."""\n\n\n'),
        ("helpers", "    factor = FACTOR\n", '    """A class."""\n\n    factor = (FACTOR)\n'),
        ("helpers", "def scale(x):\n", "def scale(\n    x,\n):\n"),
        ("action", "    return 1\n", "    return 2\n"),
        ("action", "def unrelated():\n", "def unrelated(x):\n"),
        ("helpers", "UNUSED = 5", "UNUSED = 6"),
        ("helpers", "    return 0\n", "    return 1\n"),
        ("more", "    return x - 1\n", "    return x - 2\n"),
        ("shapes", "    return 4 * x\n", "    return 5 * x\n"),
        ("deep/inner", "    return 0\n", "    return 1\n"),
        ("entries", "    return 2\n", "    return 3\n"),
    ],
)
def test_what_cannot_change_the_result_changes_no_digest(tmp_path: Path, module: str, old: str, new: str) -> None:
    assert closure(tmp_path / "a") == closure(tmp_path / "b", edited(module, old, new))


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("action", "+ local(3)", "+ local(4)"),
        ("action", "local(n - 1)", "local(n - 2)"),
        ("helpers", "SIZE = 3", "SIZE = 4"),
        ("helpers", "DEFAULT = 4", "DEFAULT = 5"),
        ("helpers", "FACTOR = 10", "FACTOR = 11"),
        ("helpers", "    return function\n", "    return functools.cache(function)\n"),
        ("helpers", "        return self.factor\n", "        return -self.factor\n"),
        ("helpers", "    return x * plus(1)\n", "    return x + plus(1)\n"),
        ("bases", "        return 1\n", "        return 2\n"),
        ("more", "    return x + 1\n", "    return x + 2\n"),
        ("shapes", "    return x * x\n", "    return x**3\n"),
        ("lazy", "    return 7\n", "    return 8\n"),
        ("deep/inner", "    return 1\n", "    return 2\n"),
        ("deep/other", "    return 1\n", "    return 2\n"),
        ("registry", "TABLE = {}\n", "TABLE = {'b': first}\n"),
        ("registry", "TABLE['a'] = first\n", "TABLE['a'] = print\n"),
        ("entries", "    return 1\n", "    return 3\n"),
    ],
)
def test_what_the_entry_reaches_changes_its_digest(tmp_path: Path, module: str, old: str, new: str) -> None:
    assert closure(tmp_path / "a") != closure(tmp_path / "b", edited(module, old, new))


def test_two_functions_may_import_two_things_under_one_name(tmp_path: Path) -> None:
    text = (
        "def run():\n    from pkg.lazy import late as one\n    return one()\n\n\n"
        "def other():\n    from pkg.more import plus as one\n    return one(1)\n"
    )
    assert "pkg.lazy:late" in closure(tmp_path, {"action": text})


def test_a_local_import_that_hides_a_function_of_the_module_counts(tmp_path: Path) -> None:
    text = "def run():\n    from pkg.lazy import late\n    return late()\n\n\ndef late():\n    return 0\n"
    assert "pkg.lazy:late" in closure(tmp_path, {"action": text})


def test_relative_and_star_imports_count(tmp_path: Path) -> None:
    text = "from .lazy import late\nfrom .deep import inner\nfrom pkg.more import *\n\n\n"
    text += "def run():\n    return late() + inner.low() + plus(1)\n"
    found = closure(tmp_path, {"action": text})
    assert set(found) == {"pkg.action:run", "pkg.lazy:late", "pkg.deep.inner:low", "pkg.more:plus"}


def test_a_relative_import_in_a_package_starts_at_the_package(tmp_path: Path) -> None:
    text = "from .inner import low\nfrom ..lazy import late\n\n\ndef go():\n    return low() + late()\n"
    found = closure(tmp_path, {"deep/__init__": text}, "pkg.deep:go")
    assert set(found) == {"pkg.deep:go", "pkg.deep.inner:low", "pkg.lazy:late"}


def test_a_module_handed_on_as_a_value_counts_as_a_whole(tmp_path: Path) -> None:
    text = "from pkg import shapes\n\n\ndef run(name):\n    return getattr(shapes, name)(1)\n"
    assert {"pkg.shapes:area", "pkg.shapes:girth"} <= set(closure(tmp_path, {"action": text}))


def test_definitions_under_a_condition_count(tmp_path: Path) -> None:
    text = "import sys\n\nif sys:\n    async def half(x):\n        return x\nelse:\n    half = None\n\n\n"
    text += "def run():\n    return half(1)\n"
    first = closure(tmp_path / "a", {"action": text})
    assert "pkg.action:half" in first
    assert first != closure(tmp_path / "b", {"action": text.replace("return x", "return -x")})


def test_statements_that_name_nothing_count_with_their_module(tmp_path: Path) -> None:
    text = "import sys\n\nsys.setrecursionlimit(100)\n\n\ndef run():\n    return 1\n"
    assert closure(tmp_path / "a", {"action": text}) != closure(tmp_path / "b", {"action": text.replace("100", "200")})


def test_what_only_types_need_does_not_count(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import os\n\n\ndef run():\n    return 1\n"
    other = text.replace("    import os", "    import sys")
    assert closure(tmp_path / "a", {"action": text}) == closure(tmp_path / "b", {"action": other})


def test_recursion_between_modules_ends(tmp_path: Path) -> None:
    one = "from pkg.more import plus\n\n\ndef run():\n    return plus()\n"
    other = "from pkg.action import run\n\n\ndef plus():\n    return run()\n"
    found = closure(tmp_path, {"action": one, "more": other})
    assert set(found) == {"pkg.action:run", "pkg.more:plus"}


def test_a_re_export_is_followed(tmp_path: Path) -> None:
    text = "from pkg.bases import plus\n\n\ndef run():\n    return plus(1)\n"
    assert set(closure(tmp_path, {"action": text})) == {"pkg.action:run", "pkg.more:plus"}


def test_modules_outside_the_package_are_not_read(tmp_path: Path) -> None:
    text = "import json\nfrom os import path\n\n\ndef run():\n    return json.dumps(path.join('a', 'b'))\n"
    assert set(closure(tmp_path, {"action": text})) == {"pkg.action:run"}


# the real package


def test_the_training_rule_covers_the_training_code_and_no_report() -> None:
    found = CodeIndex(ROOT, "amybuild").closure(RULES["train"].entry)
    modules = {name.partition(":")[0] for name in found}
    for name in ("actions.train:run", "model.train:train", "model.load:load_base", "model.lora:write_adapter"):
        assert f"amybuild.{name}" in found
    rooms = {name.split(".")[1] for name in modules}
    assert rooms <= {"actions", "model", "digest", "value"}
    assert "amybuild.actions.verify" not in modules


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_has_code_and_data_that_the_memo_watches(name: str) -> None:
    rule = RULES[name]
    found = CodeIndex(ROOT, "amybuild").closure(rule.entry)
    assert rule.entry in found
    assert not {one.split(".")[1] for one in found} & {"report", "cli", "build", "plan", "execute", "cache", "graph"}
    watched = {str(row[0]) for row in source_stats(ROOT)}
    assert set(rule.data) <= watched
    assert len(watched) > 50


def test_source_stats_see_an_edit_that_keeps_size_and_time(tmp_path: Path) -> None:
    import os

    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "__pycache__").mkdir()
    before = source_stats(tmp_path)
    stat = (tmp_path / "a.py").stat()
    (tmp_path / "__pycache__" / "a.py").write_text("")
    assert source_stats(tmp_path) == before
    (tmp_path / "b.py").write_text("x = 2")
    os.replace(tmp_path / "b.py", tmp_path / "a.py")
    os.utime(tmp_path / "a.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source_stats(tmp_path) != before


def test_library_versions_come_from_folder_names(tmp_path: Path) -> None:
    for name in ("torch-2.13.0+cpu", "huggingface_hub-1.0.0", "Safe_Tensors-0.8", "torch_extra-1"):
        (tmp_path / f"{name}.dist-info").mkdir()
    wanted = ["torch", "huggingface-hub", "safe-tensors", "peft"]
    found = library_versions(wanted, [str(tmp_path / "none"), str(tmp_path)])
    assert found == {"torch": "2.13.0+cpu", "huggingface-hub": "1.0.0", "safe-tensors": "0.8", "peft": "absent"}
