"""The nouns: Action, ActionGraph. Nothing here runs anything or imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from amybuild.errors import InputError, did_you_mean
from amybuild.value import field, replace, value


@value
class NodeSource:
    """A memory node (or a section of one) as an action reads it: canonical bytes under their digest, here or where they
    can be read when an action runs."""

    key: str
    digest: str
    text: bytes | Callable[[], bytes] = field(compare=False)

    @property
    def data(self) -> bytes:
        return self.text() if callable(self.text) else self.text


@value
class PathSource:
    """A file or folder that an action reads, with the digest it had at analysis; `name` is what it is called."""

    path: Path
    digest: str
    name: str = "source"  # of a base or a vector; else one of WRITTEN


@value
class Action:
    """One step: a rule, its parameters and its inputs. `after` orders without being part of the key."""

    id: str  # "task.listening/train"
    target: str  # "task.listening"
    rule: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)  # role -> producing action
    nodes: tuple[NodeSource, ...] = ()
    source: PathSource | None = None
    origins: Mapping[str, str] = field(default_factory=dict)  # param -> "recipe" | "param" | "base"
    after: tuple[str, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict)  # what its recipe asks for; no part of the key

    @property
    def needs(self) -> tuple[str, ...]:
        """The actions that must be there first: inputs, then order-only ones."""
        return tuple(dict.fromkeys((*self.inputs.values(), *self.after)))


class ActionGraph:
    """Actions in topological order (producers are added first) and the targets they make up."""

    def __init__(self) -> None:
        self.actions: dict[str, Action] = {}
        self.targets: dict[str, tuple[str, ...]] = {}
        self.whole: tuple[str, ...] = ()  # the actions whose results the product is made of

    def add(self, action: Action) -> str:
        """Add an action whose needs are all there already; its id comes back."""
        missing = [need for need in action.needs if need not in self.actions]
        if missing or action.id in self.actions:
            raise AssertionError(f"{action.id}: added twice or before {missing}")
        self.actions[action.id] = action
        self.targets[action.target] = (*self.targets.get(action.target, ()), action.id)
        return action.id

    def closure(self, ids: Iterable[str]) -> dict[str, Action]:
        """The named actions and all they need, in topological order."""
        wanted: set[str] = set()
        stack = list(ids)
        while stack:
            one = stack.pop()
            if one not in wanted:
                wanted.add(one)
                stack.extend(self.actions[one].needs)
        return {id: action for id, action in self.actions.items() if id in wanted}

    def inputs_of(self, id: str) -> dict[str, Action]:
        """An action and all that it reads, and nothing that is only ordered before it."""
        wanted: set[str] = set()
        stack = [id]
        while stack:
            one = stack.pop()
            if one not in wanted:
                wanted.add(one)
                stack.extend(self.actions[one].inputs.values())
        return {id: replace(action, after=()) for id, action in self.actions.items() if id in wanted}

    def select(self, targets: Iterable[str]) -> dict[str, Action]:
        """The closure of targets (``task.x``) or actions (``task.x/train``); `persona` or nothing means the product."""
        ids: list[str] = []
        for name in list(targets) or ["persona"]:
            if name == "persona":
                ids.extend(self.whole)
            elif name in self.actions:
                ids.append(name)
            elif name in self.targets:
                ids.extend(self.targets[name])
            else:
                known = [*self.targets, *self.actions]
                remedy = did_you_mean(name, known) or did_you_mean(f"task.{name}", known)
                raise InputError(f"no target '{name}'", remedy=remedy or f"targets: {', '.join(self.targets)}")
        return self.closure(ids)
