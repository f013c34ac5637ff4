"""The same small project for other build systems: N files copied, and one file made of all copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """One tool: what it is called with, and the file that describes the project to it."""

    name: str
    file: str
    text: Callable[[list[str]], str]
    build: tuple[str, ...]
    status: tuple[str, ...] = ()
    setup: tuple[tuple[str, ...], ...] = ()
    most: int = 1 << 30  # targets: above that a single run takes many minutes
    slow: bool = False  # a run takes most of a minute: one is enough
    env: Mapping[str, str] = field(default_factory=dict)


def inputs(root: Path, targets: int) -> list[str]:
    """The input files, 1 KiB each; their names come back."""
    names = [f"t{i:05d}" for i in range(targets)]
    for folder in ("in", "out"):
        (root / folder).mkdir(parents=True)
    for name in names:
        (root / "in" / name).write_text(f"{name}\n" + "x" * 1017)
    return names


def edit(root: Path, number: int, times: int) -> None:
    """Other content in one input."""
    (root / "in" / f"t{number:05d}").write_text(f"edit {times}\n" + "y" * 900)


def _ninja(names: list[str]) -> str:
    rows = [f"build out/{name}: cp in/{name}" for name in names]
    outputs = " ".join(f"out/{name}" for name in names)
    rules = ["rule cp", "  command = cp $in $out", "rule all", "  command = cat out/t* > $out"]
    return "\n".join([*rules, *rows, f"build out/all: all {outputs}", "default out/all", ""])


def _make(names: list[str]) -> str:
    outputs = " ".join(f"out/{name}" for name in names)
    rows = [f"out/{name}: in/{name}\n\tcp in/{name} out/{name}" for name in names]
    return "\n".join([f"out/all: {outputs}\n\tcat out/t* > out/all", *rows, ""])


def _doit(names: list[str]) -> str:
    return f"""\
names = {names!r}
def task_copy():
    for name in names:
        copy = f"cp in/{{name}} out/{{name}}"
        yield dict(name=name, file_dep=["in/" + name], targets=["out/" + name], actions=[copy])
def task_all():
    return dict(file_dep=["out/" + n for n in names], targets=["out/all"], actions=["cat out/t* > out/all"])
"""


def _dvc(names: list[str]) -> str:
    rows = [
        f"  {name}:\n    cmd: cp in/{name} out/{name}\n    deps: [in/{name}]\n    outs: [out/{name}]" for name in names
    ]
    deps = "\n".join(f"    - out/{name}" for name in names)
    return "\n".join(["stages:", *rows, f"  all:\n    cmd: cat out/t* > all\n    deps:\n{deps}\n    outs: [all]", ""])


def _snakemake(names: list[str]) -> str:
    return f"""\
names = {names!r}
rule all:
    input: expand("out/{{name}}", name=names)
    output: "all"
    shell: "cat out/t* > all"
rule copy:
    input: "in/{{name}}"
    output: "out/{{name}}"
    wildcard_constraints: name="t[0-9]+"
    shell: "cp {{input}} {{output}}"
"""


PEERS = (
    Peer("ninja", "build.ninja", _ninja, ("ninja",), ("ninja", "-n", "-d", "explain")),
    Peer("make -rR", "Makefile", _make, ("make", "-rR", "-s"), ("make", "-rR", "-n", "--trace")),
    Peer("make", "Makefile", _make, ("make", "-s"), ("make", "-n", "--trace")),
    Peer("doit", "dodo.py", _doit, ("doit", "-v0"), ("doit", "list", "--all", "--status")),
    Peer(
        "snakemake",
        "Snakefile",
        _snakemake,
        ("snakemake", "-c2", "-q"),
        ("snakemake", "-n", "--summary"),
        most=1000,
        slow=True,
    ),
    Peer(
        "dvc",
        "dvc.yaml",
        _dvc,
        ("dvc", "repro", "-q"),
        ("dvc", "status"),
        setup=(("dvc", "init", "--no-scm", "-q"), ("dvc", "config", "core.analytics", "false")),
        most=1000,
        slow=True,
        env={"DVC_NO_ANALYTICS": "1"},
    ),
)
