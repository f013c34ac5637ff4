"""The decision about each action: HIT, RUN or UNKNOWN. Build, dry run and explain all ask here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from amybuild.graph.graph import Action as Action  # plans are made of them: later stages name it from here
from amybuild.plan.key import Component, Manifest, manifest, walk


class State(Enum):
    """HIT: the cache has the result. RUN: it has not. UNKNOWN: an input must be built first, then it shows."""

    HIT = "hit"
    RUN = "run"
    UNKNOWN = "unknown"


class Cached(Protocol):
    """What a cached result must tell for a decision."""

    @property
    def output(self) -> str: ...


class KnownResult(Cached, Protocol):
    """What it tells for an explanation."""

    @property
    def seconds(self) -> float: ...
    @property
    def finished(self) -> str: ...
    @property
    def components(self) -> tuple[Component, ...]: ...


@dataclass(frozen=True)
class Decision:
    """One action's state with the manifest it rests on (None while UNKNOWN; `components` then holds what is known)."""

    action: Action
    state: State
    components: tuple[Component, ...] = ()
    manifest: Manifest | None = None
    output: str | None = None
    forced: bool = False
    place: str = "here"  # where a hit lies: "here", or what the cache calls a level behind it ("shared")


@dataclass(frozen=True)
class Identity:
    """The code and the libraries behind each rule."""

    code: Mapping[str, Mapping[str, str]]  # rule -> symbol -> digest
    libraries: Mapping[str, Mapping[str, str]]  # rule -> name -> version


Lookup = Callable[[str], Cached | None]


def decide(
    action: Action,
    outputs: Mapping[str, str],
    identity: Identity,
    lookup: Lookup,
    forced: bool = False,
) -> Decision:
    """The state of `action`, given the output digests known so far. Pure but for `lookup`."""
    parts = walk(action, outputs, identity.code[action.rule], identity.libraries[action.rule])
    if any(made_by not in outputs for made_by in action.inputs.values()):
        return Decision(action, State.UNKNOWN, parts, forced=forced)
    whole = manifest(action.rule, parts)
    known = None if forced else lookup(whole.key)
    if known is None:
        return Decision(action, State.RUN, parts, whole, forced=forced)
    return Decision(action, State.HIT, parts, whole, known.output, place=getattr(known, "place", "here"))


@dataclass
class Plan:
    """Decisions for a whole selection, as far as they can be made without running anything."""

    decisions: dict[str, Decision] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether nothing has to run."""
        return all(d.state is State.HIT for d in self.decisions.values())


def make_plan(
    actions: Mapping[str, Action], identity: Identity, lookup: Lookup, forced: frozenset[str] = frozenset()
) -> Plan:
    """Decide every action of a selection, in its topological order."""
    plan, outputs = Plan(), dict[str, str]()
    for id, action in actions.items():
        decision = decide(action, outputs, identity, lookup, id in forced)
        plan.decisions[id] = decision
        if decision.output is not None:
            outputs[id] = decision.output
    return plan
