"""The action key: one walk over all an action depends on, read as a digest or as an explanation."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from amybuild.digest import canonical, digest_bytes, digest_value
from amybuild.graph.graph import Action
from amybuild.value import value


@value
class Component:
    """One thing an action's result depends on. `value` is a digest or a canonical JSON value."""

    kind: str  # node | recipe | param | base | input | code | environment
    name: str
    value: str


@value
class Manifest:
    """The key of an action and the sorted components that make it (found when they are asked for)."""

    key: str
    find: Callable[[], tuple[Component, ...]]

    @cached_property
    def components(self) -> tuple[Component, ...]:
        return self.find()

    def as_json(self) -> list[list[str]]:
        return [[c.kind, c.name, c.value] for c in self.components]


def components_from_json(value: Any) -> tuple[Component, ...]:
    """What `Manifest.as_json` wrote; a malformed value raises ValueError or TypeError."""
    return tuple(Component(str(kind), str(name), str(text)) for kind, name, text in value)


def _plain(value: Any) -> str:
    return canonical(value).decode()


def walk(
    action: Action, outputs: Mapping[str, str], code: Mapping[str, str], libraries: Mapping[str, str]
) -> tuple[Component, ...]:
    """All components of `action` that are known: inputs that are not in `outputs` yet are left out."""
    found = [Component("node", node.key, node.digest) for node in action.nodes]
    for name, given in action.params.items():
        # a table of coefficients or gates is explained entry by entry
        entries = given.items() if isinstance(given, dict) and given else [(None, given)]
        for inner, one in entries:
            full = name if inner is None else f"{name}.{inner}"
            found.append(Component(action.origins.get(name, "param"), full, _plain(one)))
    if action.source:
        found.append(Component("base", action.source.name, action.source.digest))
    found.extend(Component("input", role, outputs[by]) for role, by in action.inputs.items() if by in outputs)
    found.extend(Component("code", name, digest) for name, digest in code.items())
    found.extend(Component("environment", name, version) for name, version in libraries.items())
    return tuple(sorted(found, key=lambda c: (c.kind, c.name)))


def manifest(rule: str, components: tuple[Component, ...]) -> Manifest:
    """The key of a complete set of components."""
    # where a parameter came from is for people; moving a value from a recipe to a target changes no result
    pre_image = sorted(("param" if c.kind in ("recipe", "base") else c.kind, c.name, c.value) for c in components)
    return Manifest(digest_value("action", [rule, pre_image]), lambda: components)


def signature(action: Action, outputs: Mapping[str, str], behind: str) -> str | None:
    """A digest of all that `walk` and `manifest` make the key from, ten times cheaper than that: under it a key that
    was found once need not be found again. `behind` stands for the rule's code and libraries. None when a parameter is
    no plain value."""
    parts = (
        behind,
        action.rule,
        dict(action.params),
        [(node.key, node.digest) for node in action.nodes],
        (action.source.name, action.source.digest) if action.source else None,
        [(role, outputs[by]) for role, by in action.inputs.items()],
    )
    try:
        return digest_bytes(marshal.dumps(parts, 2))  # version 2: equal values are equal bytes
    except ValueError:
        return None
