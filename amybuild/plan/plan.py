"""The decision about each action: HIT, RUN or UNKNOWN. Build, dry run and explain all ask here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cached_property, partial
from typing import Protocol

from amybuild.digest import digest_value
from amybuild.graph.graph import Action as Action  # plans are made of them: later stages name it from here
from amybuild.plan.key import Component, Manifest, manifest, signature, walk
from amybuild.value import field, value


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


@value
class Decision:
    """One action's state with the manifest it rests on (None while UNKNOWN: then `known` is all there is of it)."""

    action: Action
    state: State
    known: tuple[Component, ...] = ()
    manifest: Manifest | None = None
    output: str | None = None
    forced: bool = False
    place: str = "here"  # where a hit lies: "here", or what the cache calls a level behind it ("shared")

    @property
    def components(self) -> tuple[Component, ...]:
        return self.known if self.manifest is None else self.manifest.components


@value
class Identity:
    """The code and the libraries behind each rule, and the keys that were found with them (`keys` grows)."""

    code: Mapping[str, Mapping[str, str]]  # rule -> symbol -> digest
    libraries: Mapping[str, Mapping[str, str]]  # rule -> name -> version
    keys: dict[str, str] = field(default_factory=dict, compare=False)  # signature -> key

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """rule -> a digest of its code and libraries."""
        return {rule: digest_value("identity", [code, self.libraries[rule]]) for rule, code in self.code.items()}

    def manifest(self, action: Action, outputs: Mapping[str, str]) -> Manifest:
        """The manifest of an action whose inputs are all in `outputs`."""
        find = partial(self.walk, action, outputs)
        sign = signature(action, outputs, self.digests[action.rule])
        key = self.keys.get(sign) if sign else None
        if key is not None:
            # the outputs grow as a build goes on, those of this action's inputs stay
            return Manifest(key, find)
        whole = manifest(action.rule, find())
        if sign:
            self.keys[sign] = whole.key
        return whole

    def walk(self, action: Action, outputs: Mapping[str, str]) -> tuple[Component, ...]:
        """The components of an action that are known."""
        return walk(action, outputs, self.code[action.rule], self.libraries[action.rule])


Lookup = Callable[[str], Cached | None]


def decide(
    action: Action,
    outputs: Mapping[str, str],
    identity: Identity,
    lookup: Lookup,
    forced: bool = False,
) -> Decision:
    """The state of `action`, given the output digests known so far. Pure but for `lookup`."""
    if any(made_by not in outputs for made_by in action.inputs.values()):
        return Decision(action, State.UNKNOWN, identity.walk(action, outputs), forced=forced)
    whole = identity.manifest(action, outputs)
    known = None if forced else lookup(whole.key)
    if known is None:
        return Decision(action, State.RUN, manifest=whole, forced=forced)
    place = getattr(known, "place", "here")
    return Decision(action, State.HIT, manifest=whole, output=known.output, place=place)


@value(frozen=False)
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
