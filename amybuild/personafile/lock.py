"""Personafile.lock: the pin of a build, as text with one sorted section per target, so that git can merge it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amybuild.errors import PinError
from amybuild.personafile.schema import NAME

SCHEMA = 2
_HEADER = f"""\
# Personafile.lock: made by `amybuild pin`, checked by `amybuild --locked`, built from by `amybuild checkout --lock`.
# A section changes with its target only, so branches that changed different targets merge. What depends on several
# targets is in the account of the build that a section came with ("build. …"): the one that fits all the pins is the
# build that is pinned. After a merge none fits: `amybuild --locked` builds it, `amybuild pin` writes its account.

schema = {SCHEMA}
"""

Pins = Mapping[str, tuple[str, str]]  # action -> its key and output


@dataclass(frozen=True)
class Account:
    """One build: its hash, the digests of its base and graph, and the pins that no target alone answers for."""

    hash: str
    persona: str
    base: str
    graph: str
    pins: Pins
    variant: str = ""
    name: str = ""


@dataclass(frozen=True)
class Lock:
    """What a lock pins: the actions of single targets, and the accounts of builds, by the section they stand in."""

    pins: Pins
    accounts: Mapping[str, Account] = field(default_factory=dict)


def shared(actions: Pins) -> dict[str, tuple[str, str]]:
    """The pins of targets that are made from others: the link, the persona, and analogies; and of the memory as it was
    read, which all targets share."""
    made = {"checkpoint", "persona", "memory"} | {id.rpartition("/")[0] for id in actions if id.endswith("/combine")}
    return {id: pair for id, pair in actions.items() if id.rpartition("/")[0] in made}


def lock_of(actions: Pins, account: Account, before: Lock | None) -> Lock:
    """The lock of a build, written over the lock `before`.

    The account goes into the section that changed first (a fresh lock: the checkpoint's): a place that another branch,
    which changed another target, leaves alone. Sections that did not change keep what they have.
    """
    pins = {id: pair for id, pair in actions.items() if id not in account.pins}
    old = before or Lock({})
    sections, olds = _sections(pins), _sections(old.pins)
    same = {target for target, steps in sections.items() if olds.get(target) == steps}
    kept = {target: one for target, one in old.accounts.items() if target in same or target == "checkpoint"}
    fitting = [target for target, one in kept.items() if _of(one) == _of(account)]
    changed = sorted(sections.keys() - same) if before else []
    where = [*fitting, *changed, "checkpoint"][0]  # one that tells of this build already stays where it is
    return Lock(pins, {**kept, where: account})


def _of(account: Account) -> tuple[Any, ...]:
    return account.hash, account.base, account.graph, dict(account.pins)


def _sections(pins: Pins) -> dict[str, dict[str, tuple[str, str]]]:
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for action, pair in sorted(pins.items()):
        target, _, step = action.rpartition("/")
        found.setdefault(target, {})[step] = pair
    return found


def _quoted(text: str) -> str:
    """A TOML string: JSON's form is one, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _row(name: str, pair: tuple[str, str]) -> str:
    return f'{name} = {{ key = "{pair[0]}", output = "{pair[1]}" }}'


def _account(account: Account) -> Iterator[str]:
    for name in ("hash", "persona", "base", "graph", "variant", "name"):
        value = getattr(account, name)
        if value or name not in ("variant", "name"):
            yield f"build.{name} = {_quoted(value)}"
    yield from (_row(f"build.{_quoted(action)}", pair) for action, pair in sorted(account.pins.items()))


def render(lock: Lock) -> str:
    """The text of a lock file."""
    sections = _sections(lock.pins)
    lines = [_HEADER]
    for target in sorted(sections.keys() | lock.accounts.keys()):
        rows = (_row(step, pair) for step, pair in sections.get(target, {}).items())
        # the account right below the header: there no neighbour's change touches it
        account = _account(lock.accounts[target]) if target in lock.accounts else ()
        lines += [f"[target.{_quoted(target)}]", *account, *rows, ""]
    return "\n".join(lines)


def parse(path: Path) -> Lock:
    """Read a lock file; a missing or damaged one is a `PinError`."""
    import tomli

    remedy = "amybuild pin writes it anew from the last build"
    try:
        if path.exists() and not path.is_file():
            raise PinError("not a regular file", where=path.name, remedy=f"move it away; {remedy}")
        text = path.read_bytes().decode("utf-8-sig")
        if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines()):
            what = "it has git's conflict marks: both branches changed the same target"
            raise PinError(what, where=path.name, remedy=f"take either side; {remedy}")
        data = tomli.loads(text)
        schema = data["schema"] if "schema" in data else data["build"]["schema"]  # where it once stood
        if schema != SCHEMA:
            raise PinError(f"schema {schema}, this amybuild reads {SCHEMA}", where=path.name, remedy=remedy)
        pins, accounts = {}, {}
        for target, steps in data.get("target", {}).items():
            for step, one in steps.items():
                if step == "build":
                    accounts[target] = _read_account(one)
                else:
                    pins[f"{target}/{step}"] = _pair(one)
        return Lock(pins, accounts)
    except FileNotFoundError:
        remedy = "amybuild pin writes one from the last build"
        raise PinError("there is no lock", where=path.name, remedy=remedy) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise PinError(f"cannot be read: {why}", where=path.name, remedy=remedy) from None


def _pair(value: Any) -> tuple[str, str]:
    key, output = value["key"], value["output"]
    if not (isinstance(key, str) and isinstance(output, str)):
        raise TypeError("a pin is a key and an output digest")
    return key, output


def _read_account(value: Any) -> Account:
    texts = {name: value[name] for name in ("hash", "persona", "base", "graph")}
    texts |= {name: value.get(name, "") for name in ("variant", "name")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("an account holds strings")
    if not NAME.match(texts["persona"]):  # it becomes a folder
        raise ValueError("the persona's name is none")
    return Account(**texts, pins={id: _pair(one) for id, one in value.items() if "/" in id})
