"""Personafile.toml -> `Persona`: every key is known, typed and placed before anything else happens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.errors import InputError, did_you_mean
from amybuild.personafile.chat import read_chat
from amybuild.personafile.check import Table
from amybuild.personafile.gates import read_gates
from amybuild.personafile.link import read_link, read_scale
from amybuild.personafile.recipe import RecipeBook
from amybuild.personafile.schema import (
    NAME,
    VARIABLE,
    Analogy,
    Base,
    Cache,
    Link,
    Persona,
    Readout,
    Server,
    Steer,
    Task,
)
from amybuild.personafile.texts import TAGGED, read_outside, read_steer

_SOURCES = ("node", "query", "analogy", "checkpoint", "adapter", "examples", "chat")


@dataclass(frozen=True)
class Variant:
    """What the command line changes about the declared persona: a build like any other, with its own hash."""

    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """A TOML file as (data, text); bad syntax is an `InputError` with the line."""
    import tomli

    try:
        if path.exists() and not path.is_file():  # to read a pipe waits for somebody who writes
            raise InputError("not a regular file", where=str(path), remedy="name a file, or move it away")
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
        return tomli.loads(text), text
    except FileNotFoundError:
        remedy = "run amybuild where Personafile.toml is, or name it with -f / -C"
        if path.is_symlink():
            raise InputError("a link that leads nowhere", where=str(path), remedy="remove the link") from None
        raise InputError("no such file", where=str(path), remedy=remedy) from None
    except UnicodeDecodeError as error:
        what = f"cannot be read: {error.reason} of UTF-8 at byte {error.start}"
        raise InputError(what, where=str(path), remedy="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:  # too long a number, too deep a list
        raise InputError(f"not valid TOML: {error}", where=path.name, remedy="mend the syntax at that place") from None


def _set(data: dict[str, Any], assignment: str) -> None:
    import tomli

    path, sign, text = assignment.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not sign or not all(keys):
        example = "for example --set task.listening.alpha=0.3"
        raise InputError(f"'{assignment}' is not KEY=VALUE", where="--set", remedy=example)
    try:
        value = tomli.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word is a string, as people type it
    for key in keys[:-1]:
        inner = data.get(key, {})
        if not isinstance(inner, dict):
            raise InputError(f"'{key}' is not a table", where=f"--set {path.strip()}")
        data[key] = data = dict(inner)
    if text.strip():
        data[keys[-1]] = value
    else:
        data.pop(keys[-1], None)  # `--set link.density=` takes the key out


def _at_least(low: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value >= low, f"must be at least {low}"


def _named(table: Table, key: str) -> Iterable[tuple[str, Table]]:
    group = table.child(key)
    for name, value in group.data.items():
        if not NAME.match(name):
            raise group.fail(f"'{name}' is not a name (letters, digits, _ and -)", name)
        if not isinstance(value, dict):
            raise group.fail("must be a table", name, f"write [{key}.{name}]")
        yield name, group.child(name)


def _base(table: Table, wanted: str) -> Base:
    bases = dict(_named(table, "base"))
    if wanted not in bases:
        raise table.child("persona").fail(
            f"no [base.{wanted}]", "base", did_you_mean(wanted, bases) or f"bases here: {', '.join(bases) or 'none'}"
        )
    for name, one in bases.items():
        base = _one_base(name, one)
        if name == wanted:
            chosen = base
    return chosen


def _one_base(name: str, table: Table) -> Base:
    kinds = [kind for kind in ("wheel", "hub", "path") if kind in table.data]
    if len(kinds) != 1:
        raise table.fail(f"needs exactly one of wheel, hub, path; has {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    parts = kind == "wheel" and isinstance(table.data["wheel"], list)  # a file too large for one wheel
    lists = ("wheel", "file") if parts else ()
    fields: dict[str, Any] = {
        key: table.strings(key) if key in lists else table.take(key, str)
        for key in ("wheel", "hub", "revision", "path", "file", "sha256")
    }
    table.done()
    if kind == "hub" and not fields["revision"]:
        remedy = 'add revision = "<commit hash>", so that a build means the same tomorrow'
        raise table.fail("a hub base needs a pinned revision", "hub", remedy)
    if kind == "hub" and not re.fullmatch(r"[0-9a-f]{40}", fields["revision"]):
        raise table.fail(
            "must be a commit, 40 hex digits", "revision", "a branch or tag can mean another model tomorrow"
        )
    wheels = fields["wheel"] if parts else (fields["wheel"],)
    if kind == "wheel" and not all("==" in wheel for wheel in wheels):
        raise table.fail("a wheel base needs an exact version", "wheel", 'write it as "name==1.2.3"')
    if kind == "wheel" and not fields["file"]:
        raise table.fail("'file' is missing", remedy="name the model file inside the wheel")
    if parts and len(fields["file"]) != len(wheels):
        what = f"{len(wheels)} wheels and {len(fields['file'])} files"
        raise table.fail(what, "file", "name the part of the model file that each wheel brings, in their order")
    if fields["sha256"] and not re.fullmatch(r"[0-9a-f]{64}", fields["sha256"]):
        raise table.fail("must be 64 hex digits", "sha256")
    return Base(name=name, kind=kind, where=table.at(), **fields)


def _task(name: str, table: Table, book: RecipeBook) -> Task:
    sources = [key for key in _SOURCES if key in table.data]
    taken = [key for key in ("checkpoint", "adapter") if key in table.data]
    told = [key for key in sources if key not in taken]  # examples beside a vector from outside only measure it
    if len(taken) > 1 or len(told) > 1 or not sources or (taken and "analogy" in told):
        raise table.fail(f"needs exactly one of {', '.join(_SOURCES)}; has {', '.join(sources) or 'none'}")
    node, query, examples = (table.take(key, str) for key in ("node", "query", "examples"))
    chat = read_chat(table)
    outside = {key: table.take(key, str) for key in ("checkpoint", "adapter")}
    analogy = None
    if "analogy" in table.data:
        three = table.child("analogy")
        analogy = Analogy(*(three.take(key, str, required=True) for key in "abc"))
        three.done()
    alpha = table.take("alpha", float, 1.0)
    scale = tuple(read_scale(table, "scale"))
    recipe = book.resolve(table.take("recipe", str, "lora-sft"), "task", table)
    table.done()
    return Task(
        name, table.at(), alpha, recipe, node, query, analogy, **outside, scale=scale, examples=examples, chat=chat
    )


def _steer(name: str, table: Table, book: RecipeBook) -> Steer:
    concept, query, texts = read_steer(table, name)
    use = table.take("apply", bool, False)
    towards, away = (table.within(key, float, 1.0, *_at_least(0)) for key in ("alpha_pos", "alpha_neg"))
    recipe = book.resolve(table.take("recipe", str, "caa"), "steer", table)
    table.done()
    return Steer(name, table.at(), concept, query, recipe, use, towards, away, texts)


def _readout(table: Table, book: RecipeBook) -> Readout:
    concepts: tuple[str, ...] = ()
    top, min_examples = None, 8
    if isinstance(table.data.get("concepts"), dict):
        chosen = table.child("concepts")
        chosen.take("top", int, required=True)
        top = chosen.within("top", int, 1, *_at_least(1))
        min_examples = chosen.within("min_examples", int, 8, *_at_least(1))
        concepts = chosen.strings("also")
        chosen.done()
    else:
        concepts = table.strings("concepts")
    if not concepts and top is None:
        remedy = 'name some, as in concepts = ["warmth"], or { top = 8, min_examples = 8 }'
        raise table.fail("'concepts' is missing", remedy=remedy)
    query, texts = table.take("query", str, TAGGED), read_outside(table)
    if texts and "query" in table.data:
        raise table.fail(f"'{texts.form}' says which texts already", "query", "remove one of the two")
    recipe = book.resolve(table.take("recipe", str, "caa"), "steer", table)
    on = table.one_of("on", ("base", "persona"), "base")
    max_drift = table.within("max_drift", float, 0.05, lambda v: 0 <= v <= 1, "must lie between 0 and 1")
    most = table.within("drift_texts", int, 100, *_at_least(0))
    table.done()
    named = tuple(dict.fromkeys(c.lower() for c in concepts))
    return Readout(table.at(), named, top, min_examples, query, recipe, texts, on, max_drift, most)


def _link(table: Table, tasks: Sequence[Task], variant: Variant) -> Link:
    method, lam, params = read_link(table)
    names = [t.name for t in tasks]
    for flag, wanted in (("--without", variant.without), ("--only", variant.only)):
        for name in wanted:
            if name.removeprefix("task.") not in names:
                remedy = did_you_mean(name, names) or f"tasks here: {', '.join(names)}"
                raise InputError(f"no task '{name}'", where=flag, remedy=remedy)
    out = {name.removeprefix("task.") for name in variant.without}
    if variant.only:
        out |= set(names) - {name.removeprefix("task.") for name in variant.only}
    rank = params.pop("adapter_rank", None)
    return Link(table.at(), method, lam, params, rank, frozenset(out))


_AGE = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _server(graph: Table) -> Server:
    """``[graph] pull``: "always", "manual", or for how long an answer is taken as it is; `timeout` and `headers`."""
    pull = graph.take("pull", str, "1m")
    age = re.fullmatch(r"(\d{1,9})([smhd])", pull)
    if age is None and pull not in ("always", "manual"):
        remedy = 'for example pull = "10m": within ten minutes a build does not ask again'
        raise graph.fail(f"'{pull}' is no age, 'always' or 'manual'", "pull", remedy)
    fresh = float(age[1]) * _AGE[age[2]] if age else None if pull == "manual" else 0.0
    timeout = graph.within("timeout", float, 60.0, lambda value: value > 0, "must be more than 0")
    return Server(fresh, timeout, _headers(graph.child("headers")))


def _headers(table: Table) -> Mapping[str, str]:
    found = {name: table.take(name, str) for name in table.data}
    for name, value in found.items():
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
            raise table.fail(f"{name[:40]!a} is not the name of a header")
        if not VARIABLE.search(value):  # a secret that stands here would be in every product's provenance
            remedy = 'for example Authorization = "Bearer $MEMORY_TOKEN"'
            raise table.fail("names no environment variable", name, remedy)
    return found


def _check_analogies(tasks: Mapping[str, Task]) -> None:
    for task in tasks.values():
        for other in (task.analogy.a, task.analogy.b, task.analogy.c) if task.analogy else ():
            if other not in tasks:
                raise InputError(f"no task '{other}'", where=f"{task.where} analogy", remedy=did_you_mean(other, tasks))
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            loop = " -> ".join((*path[path.index(name) :], name))
            remedy = "an analogy cannot be built from itself"
            raise InputError(f"a cycle: {loop}", where=tasks[name].where, remedy=remedy)
        if name in done:
            return
        analogy = tasks[name].analogy
        for other in (analogy.a, analogy.b, analogy.c) if analogy else ():
            visit(other, (*path, name))
        done.add(name)

    for name in tasks:
        visit(name, ())


def load(file: Path, variant: Variant = Variant()) -> Persona:
    """Read and check a Personafile, with a variant's changes applied."""
    try:
        return _load(file, variant)
    except InputError as error:
        if not variant.sets:
            raise
        sets = " ".join(f"--set {one[:60]}" for one in variant.sets)
        raise InputError(error.what, where=f"{error.where} (with {sets})", remedy=error.remedy) from None


def _load(file: Path, variant: Variant) -> Persona:
    data, text = read_toml(file)
    for assignment in variant.sets:
        _set(data, assignment)
    root = file.resolve().parent
    top = Table(data, file.name, "", text)
    book = RecipeBook(root / "recipes", read_toml)
    about = top.child("persona", required=True)
    name = about.take("name", str, required=True)
    if not NAME.match(name):
        raise about.fail(f"'{name}' is not a name (letters, digits, _ and -)", "name")
    base = _base(top, about.take("base", str, required=True))
    about.done()
    graph = top.child("graph")
    source = graph.take("source", str, "memory")
    server = _server(graph)
    graph.done()
    tasks = tuple(_task(n, t, book) for n, t in _named(top, "task"))
    _check_analogies({t.name: t for t in tasks})
    steers = tuple(_steer(n, t, book) for n, t in _named(top, "steer"))
    readout = _readout(top.child("readout"), book) if "readout" in data else None
    neutral = top.child("neutral")
    replies = {
        "prompts": neutral.within("prompts", int, 72, *_at_least(1)),
        "heldout": neutral.within("heldout", float, 0.3, lambda v: 0 < v < 1, "must lie between 0 and 1"),
        "max_new_tokens": neutral.within("max_new_tokens", int, 40, *_at_least(1)),
        "temperature": neutral.within("temperature", float, 0.7, *_at_least(0)),
        "device": neutral.one_of("device", ("auto", "cpu", "cuda"), "auto"),
    }
    neutral.done()
    link = _link(top.child("link"), tasks, variant)
    shared = top.child("cache")
    cache = Cache(shared.at("remote"), shared.take("remote", str), shared.take("readonly", bool, False))
    shared.done()
    gates = read_gates(top, "persona")
    top.done()
    texts = {"Personafile.toml": text, **book.texts}
    return Persona(
        name, file.resolve(), root, base, source, replies, tasks, steers, readout, link, cache, server, gates, texts
    )
