"""What differs between two manifests: component by component, gathered into causes, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from amybuild.graph.analyze import WRITTEN
from amybuild.plan.key import Component

_ORDER = ("node", "recipe", "param", "base", "input", "code", "environment", "output")
_VERBS = ("edited", "new", "gone")
_LONG = 60  # characters of old and new together that still fit into a sentence


@dataclass(frozen=True)
class Change:
    """One component that differs. None means that it was not there, or is not there any more."""

    kind: str
    name: str
    old: str | None
    new: str | None

    @property
    def verb(self) -> str:
        return "new" if self.old is None else "gone" if self.new is None else "edited"


@dataclass(frozen=True)
class Cause:
    """Changes of one kind that touch the same actions: what people mean by "the reason"."""

    text: str
    actions: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    bare: bool = False  # the text says nothing without the actions

    @property
    def whole(self) -> str:
        return f"{self.text}: {some([*self.actions], 3)}" if self.bare else self.text


def _kin(kind: str) -> str:
    return "param" if kind == "recipe" else kind


def differences(old: tuple[Component, ...], new: tuple[Component, ...]) -> tuple[Change, ...]:
    """The components that differ between two manifests, nodes first, then parameters, then code and versions."""
    before = {(_kin(c.kind), c.name): c for c in old}
    after = {(_kin(c.kind), c.name): c for c in new}
    changes = []
    for id in sorted(before.keys() | after.keys()):
        a, b = before.get(id), after.get(id)
        if a is None or b is None or a.value != b.value:
            shown = b or a
            assert shown is not None
            changes.append(Change(shown.kind, shown.name, a.value if a else None, b.value if b else None))
    return tuple(sorted(changes, key=lambda c: (_rank(c.kind), c.name)))


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def gather(found: Mapping[str, Iterable[Change]], needs: Mapping[str, Mapping[str, str]] | None = None) -> list[Cause]:
    """The changes of several actions as causes: what is the same in two actions is told once.

    `needs` gives for each action which action makes the input of a role.
    """
    touched: dict[Change, list[str]] = {}
    for action, changes in found.items():
        linked = {c.name.removeprefix("alphas.") for c in changes if c.name.startswith("alphas.")}
        for change in changes:
            table, _, key = change.name.partition(".")
            if change.kind in ("input", "param") and change.verb != "edited" and table != "alphas" and key in linked:
                continue  # its alpha came or went with it, and says so
            touched.setdefault(_told(action, change, (needs or {}).get(action, {})), []).append(action)
    groups: dict[tuple[str, str, tuple[str, ...]], list[Change]] = {}
    for change, actions in touched.items():
        verb = change.verb if change.kind in ("node", "code", "input") else ""
        groups.setdefault((change.kind, verb, tuple(actions)), []).append(change)
    causes = [
        Cause(_sentence(kind, verb, group), ids, tuple(group), kind == "output")
        for (kind, verb, ids), group in groups.items()
    ]
    return sorted(causes, key=lambda c: (_rank(c.changes[0].kind), _VERBS.index(c.changes[0].verb)))


def _told(action: str, change: Change, needs: Mapping[str, str]) -> Change:
    """A change under the name that people gave it: a task's alpha is in two manifests, and one edit."""
    name = change.name
    if change.kind in ("param", "recipe"):
        if name.startswith("alphas."):
            name = f"task.{name.removeprefix('alphas.')} alpha"
        elif name == "alpha":
            name = f"{action.rpartition('/')[0]} alpha"
    elif change.kind == "input":
        name = needs.get(name, name)
    elif change.kind == "output":
        return Change("output", "result", None, None)
    return Change(change.kind, name, change.old, change.new) if name != change.name else change


@dataclass(frozen=True)
class Difference:
    """What differs between two builds, action by action. What is only another input of an action is left out."""

    a: str
    b: str
    changes: Mapping[str, tuple[Change, ...]]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()  # they differ, and the record of one is gone
    same_output: frozenset[str] = frozenset()  # differ in their inputs, not in what came out

    @property
    def nothing(self) -> bool:
        return not (self.changes or self.only_a or self.only_b or self.untold)

    def causes(self) -> list[Cause]:
        return gather(self.changes)


def phrase(action: str, changes: tuple[Change, ...], needs: Mapping[str, str]) -> str:
    """A sentence for what changed in one action. `needs` maps input roles to the actions that make them."""
    causes = gather({action: changes}, {action: needs})
    return "; ".join(c.text for c in causes) or "the record of its last run cannot be read"


def some(names: list[str], most: int) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sentence(kind: str, verb: str, changes: list[Change]) -> str:
    names = [c.name for c in changes]
    match kind:
        case "node":
            if len(names) == 1:
                return f"new node {names[0]}" if verb == "new" else f"node {names[0]} {verb}"
            return f"{len(names)} {'new nodes' if verb == 'new' else f'nodes {verb}'}: {some(names, 3)}"
        case "code":
            short = [symbol(name) for name in names]
            return f"code {'changed' if verb == 'edited' else verb}: {some(short, 4)}"
        case "input":
            word = {"edited": "new result of", "new": "new input", "gone": "no more input"}[verb]
            return f"{word} {some(names, 3)}"
        case "output":
            return "no longer in the cache"
    values = some([_values(c) for c in changes], 4)
    plain = kind == "param" or (kind == "base" and set(names) <= set(WRITTEN))
    return values if plain else f"{ {'environment': 'library'}.get(kind, kind) } {values}"


def symbol(name: str) -> str:
    """``amybuild.model.train:step`` as ``model.train:step``."""
    return name if name.startswith("file:") else name.partition(".")[2] or name


def _values(change: Change) -> str:
    old, new = readable(change.old), readable(change.new)
    if change.name.endswith(" alpha") and change.verb != "edited":
        task = change.name.removesuffix(" alpha")
        return f"{task} newly linked (alpha {new})" if change.verb == "new" else f"{task} no longer linked"
    if change.kind == "base" and change.name == "source":
        return f"files {old[:12]} -> {new[:12]}"
    if change.kind == "base" and change.name in WRITTEN:
        return f"{change.name} files {old[:12]} -> {new[:12]}"
    if len(old) + len(new) <= _LONG:
        return f"{change.name} {old} -> {new}"
    return f"{change.name} changed"


def told_whole(change: Change) -> bool:
    """Whether the sentence about a change of a value already says its old and its new one."""
    return change.name in ("source", *WRITTEN) or len(readable(change.old)) + len(readable(change.new)) <= _LONG


def readable(value: str | None) -> str:
    """A component's value for people: a canonical JSON string without its quotes, everything else as it is."""
    if value is None:
        return "unset"
    if value.startswith('"'):
        try:
            text = json.loads(value)
        except ValueError:
            return value
        return text if isinstance(text, str) and text.isprintable() and text else value
    return value
