"""The pure model of a build: random worlds (actions and their inputs), what each action makes, what must run."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

RULES = ("light", "heavy", "other")
Files = dict[str, bytes]


@dataclass(frozen=True)
class Spec:
    """One action of a random world. `coarse` > 0: it makes one of so few results, so that builds stop early there."""

    id: str
    rule: str
    name: str  # a parameter; actions that share it (and all else) are twins with one key
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    source: str | None = None
    coarse: int = 0
    files: int = 1


@dataclass
class World:
    """The actions, which stay, and what they depend on, which is edited: small numbers that stand for contents."""

    specs: list[Spec]
    params: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    code: dict[str, int] = field(default_factory=dict)

    def copy(self) -> World:
        return copy.deepcopy(self)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> World:
        specs = [Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}) for one in data["specs"]]
        return cls(specs, *(dict(data[name]) for name in ("params", "nodes", "sources", "code")))

    def closure(self, ids: Iterable[str]) -> list[Spec]:
        """The named actions (all when there is none) and what they need, in topological order."""
        wanted = set(ids) or {spec.id for spec in self.specs}
        for spec in reversed(self.specs):  # needs come before in the list
            if spec.id in wanted:
                wanted |= {*spec.needs, *spec.after}
        return [spec for spec in self.specs if spec.id in wanted]


def node_bytes(name: str, value: int) -> bytes:
    return json.dumps({"key": name, "value": value}).encode()


def source_bytes(name: str, value: int) -> bytes:
    return f"{name} {value:04d}\n".encode() * 3  # the same size for every value


def produce(
    params: Mapping[str, Any], code: int, nodes: list[bytes], source: bytes, inputs: Mapping[str, Files]
) -> Files:
    """What an action makes: a pure function of what it is handed. The runner and the model both call it."""
    # an odd value makes what the even one below it makes: an edit without an effect
    told = [params["name"], params["value"] // 2, code // 2, [n.decode() for n in nodes], source.decode()]
    told += [sorted((role, name, data.hex()) for role, files in inputs.items() for name, data in files.items())]
    number = int.from_bytes(hashlib.sha256(json.dumps(told).encode()).digest(), "big")
    if params["coarse"]:
        number %= params["coarse"]
    made: Files = {"value": str(number).encode()}
    for i in range(1, params["files"]):
        text = f"{number % 5 if i == 1 else number}-{i}".encode()  # the first one is often the same: shared objects
        made[f"more/{i}"] = text * (1 + i)
    return made


def param_of(spec: Spec, world: World) -> dict[str, Any]:
    return {"name": spec.name, "value": world.params[spec.id], "coarse": spec.coarse, "files": spec.files}


def results(world: World) -> dict[str, Files]:
    """From-scratch results of all actions."""
    found: dict[str, Files] = {}
    for spec in world.specs:
        nodes = [node_bytes(name, world.nodes[name]) for name in spec.nodes]
        source = source_bytes(spec.source, world.sources[spec.source]) if spec.source else b""
        inputs = {f"in{i}": found[need] for i, need in enumerate(spec.needs)}
        found[spec.id] = produce(param_of(spec, world), world.code[spec.rule], nodes, source, inputs)
    return found


def digest_of(files: Files) -> str:
    pairs = sorted((name, data.hex()) for name, data in files.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def keys(world: World) -> dict[str, str]:
    """For each action the model's own key: equal exactly when all that it depends on is equal."""
    made, found = results(world), {}
    for spec in world.specs:
        told = [
            *(spec.rule, param_of(spec, world), world.code[spec.rule], [(n, world.nodes[n]) for n in spec.nodes]),
            # the content, not the name: a file that was renamed is the same input
            source_bytes(spec.source, world.sources[spec.source]).decode() if spec.source else None,
            *(digest_of(made[need]) for need in spec.needs),
        ]
        found[spec.id] = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return found


def random_world(rng: random.Random, most: int = 40) -> World:
    """A random DAG of 1 to `most` actions, small ones more often, over a few nodes, files, parameters, rules."""
    count = rng.choice((rng.randint(1, 4), rng.randint(2, 12), rng.randint(8, most)))
    world = World([])
    world.nodes = {f"n{i}": rng.randrange(4) for i in range(rng.randint(1, 4))}
    world.sources = {f"s{i}": rng.randrange(4) for i in range(rng.randint(1, 3))}
    world.code = dict.fromkeys(RULES, 0)
    reach = rng.choice((2, 5, 40))  # deep graphs and wide ones
    for i in range(count):
        if i and rng.random() < 0.1:  # a twin: another name for what is asked for already
            twin = rng.choice(world.specs)
            world.specs.append(replace(twin, id=f"t{i}/x"))
            world.params[f"t{i}/x"] = world.params[twin.id]
            continue
        near = [f"t{j}/x" for j in range(max(0, i - reach), i)]
        needs = tuple(sorted(rng.sample(near, min(len(near), rng.choice((0, 1, 1, 2, 3))))))
        after = tuple(rng.sample(near, 1)) if near and rng.random() < 0.1 else ()
        nodes = tuple(sorted(rng.sample(sorted(world.nodes), rng.choice((0, 0, 1, 1, 2)) % (len(world.nodes) + 1))))
        source = rng.choice(sorted(world.sources)) if rng.random() < 0.25 else None
        coarse, files = rng.choice((0, 0, 0, 1, 2)), rng.choice((1, 1, 2, 4))
        world.specs.append(Spec(f"t{i}/x", rng.choice(RULES), f"t{i}", needs, after, nodes, source, coarse, files))
        world.params[f"t{i}/x"] = rng.randrange(4)
    return world
