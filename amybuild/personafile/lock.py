"""Personafile.lock: the pin of one build, as text with one sorted section per target, so that git can merge it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amybuild.errors import PinError

SCHEMA = 1


@dataclass(frozen=True)
class Lock:
    """What a lock pins: per action its key and output digest, the base, the graph and the build."""

    build: str
    base: str
    graph: str
    actions: Mapping[str, tuple[str, str]]
    name: str = ""


def _quoted(text: str) -> str:
    """A TOML string: JSON's form is one, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def render(lock: Lock) -> str:
    """The text of a lock file."""
    lines = ["# Personafile.lock: made by `amybuild pin`, checked by `amybuild --locked`.", "", "[build]"]
    lines += [f"schema = {SCHEMA}", f'hash = "{lock.build}"', f'base = "{lock.base}"', f'graph = "{lock.graph}"']
    if lock.name:
        lines.append(f"name = {_quoted(lock.name)}")
    targets: dict[str, list[str]] = {}
    for action, (key, output) in sorted(lock.actions.items()):
        target, _, step = action.rpartition("/")
        targets.setdefault(target, []).append(f'{step} = {{ key = "{key}", output = "{output}" }}')
    for target, rows in sorted(targets.items()):
        lines += ["", f'[target."{target}"]', *rows]
    return "\n".join(lines) + "\n"


def parse(path: Path) -> Lock:
    """Read a lock file; a missing or damaged one is a `PinError`."""
    import tomli

    remedy = "amybuild pin writes it anew from the last build"
    try:
        data = tomli.loads(path.read_bytes().decode())
        build = data["build"]
        if build["schema"] != SCHEMA:
            raise PinError(f"schema {build['schema']}, this amybuild reads {SCHEMA}", where=path.name, remedy=remedy)
        actions = {
            f"{target}/{step}": (pair["key"], pair["output"])
            for target, steps in data.get("target", {}).items()
            for step, pair in steps.items()
        }
        lock = Lock(build["hash"], build["base"], build["graph"], actions, build.get("name", ""))
        texts = [lock.build, lock.base, lock.graph, lock.name, *(text for pair in actions.values() for text in pair)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a digest or name is not a string")
        return lock
    except FileNotFoundError:
        remedy = "amybuild pin writes one from the last build"
        raise PinError("there is no lock", where=path.name, remedy=remedy) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PinError(f"cannot be read: {error}", where=path.name, remedy=remedy) from None
