"""What a Personafile says, as frozen values; the only thing later stages see of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITTEN = ("examples", "chat", "stories", "pairs")  # keys of targets that name what people wrote: paths in the project
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)  # of the environment, in a header
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")  # of a persona, a base, a target: it is a file name too


@dataclass(frozen=True)
class Base:
    """A base model: exactly one of `wheel`, `hub`, `path`; several wheels where each brings a part of one `file`."""

    name: str
    kind: str  # "wheel" | "hub" | "path"
    where: str
    wheel: str | tuple[str, ...] | None = None
    hub: str | None = None
    revision: str | None = None
    path: str | None = None
    file: str | tuple[str, ...] | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe after defaults and the target's own overrides; `origins` says where each field comes from."""

    name: str
    fields: Mapping[str, Any]
    gates: Mapping[str, Any]  # bounds; `monotone` is true or false
    origins: Mapping[str, str]  # field -> "recipe" | "param"
    resources: Mapping[str, int] = field(default_factory=dict)  # gpu: how many, memory: bytes; no part of any key


@dataclass(frozen=True)
class Analogy:
    """tau_D = tau_b - tau_a + tau_c, over the names of three tasks."""

    a: str
    b: str
    c: str


@dataclass(frozen=True)
class Chat:
    """An export of a chat (a file or folder of the project) and how it becomes examples of what `speaker` says.

    `turns` before a reply are its context; a silence of `gap_hours` ends a conversation. Replies count half as often
    every `half_life_days` (0: all alike). `names`: what people are called instead. `redact`: what is taken out.
    """

    path: str
    speaker: str
    turns: int
    gap_hours: float
    half_life_days: float
    max_examples: int
    names: Mapping[str, str]
    redact: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A target that is a task vector: learned from examples, an analogy of three others, or taken from outside.

    Examples are those of nodes (`node`, `query`), of a JSONL file (`examples`) or of a `chat`. `checkpoint` (a
    fine-tuned model's folder) and `adapter` (a PEFT folder) are taken as they are; examples beside them only measure.
    `scale` holds per-tensor factors of this vector, `{"match": glob, "factor": number}` each.
    """

    name: str
    where: str
    alpha: float
    recipe: Recipe
    node: str | None = None
    query: str | None = None
    analogy: Analogy | None = None
    checkpoint: str | None = None
    adapter: str | None = None
    scale: tuple[Mapping[str, Any], ...] = ()
    examples: str | None = None
    chat: Chat | None = None

    @property
    def target(self) -> str:
        return f"task.{self.name}"

    @property
    def vector(self) -> str:
        """The action that makes its vector."""
        step = "combine" if self.analogy else "adopt" if self.checkpoint or self.adapter else "train"
        return f"{self.target}/{step}"

    @property
    def has_dialogues(self) -> bool:
        """Whether there are held-out examples to measure by (neutral text there always is)."""
        return any(one is not None for one in (self.node, self.query, self.examples, self.chat))


@dataclass(frozen=True)
class Texts:
    """What a direction is found from where that is no tagged memories; `form` is one of

    dialogues (of `node` or `query`: wanted against unwanted replies), sides (the memories of `query` against those of
    `negatives`), stories (a folder, at `path`), pairs (a JSONL file, at `path`).
    """

    form: str
    path: str | None = None
    node: str | None = None
    query: str | None = None
    negatives: str | None = None


@dataclass(frozen=True)
class Steer:
    """A target that is a direction in the residual stream for one emotion, or whatever else its `texts` differ in.

    `apply`: whether chat and export steer by it unasked. `alpha_pos` towards the emotion and `alpha_neg` away from it
    are strengths in class gaps, the distance between the means of texts with and without it. None is part of any key.
    """

    name: str
    where: str
    emotion: str
    query: str  # which tagged memories count, where there are no `texts`
    recipe: Recipe
    apply: bool = False
    alpha_pos: float = 1.0
    alpha_neg: float = 1.0
    texts: Texts | None = None

    @property
    def target(self) -> str:
        return f"steer.{self.name}"


@dataclass(frozen=True)
class Readout:
    """Which emotions the product reads, from which nodes, at which blocks, found on which model."""

    where: str
    concepts: tuple[str, ...]
    top: int | None
    min_examples: int
    query: str
    recipe: Recipe
    texts: Texts | None = None  # stories or pairs; else tagged memories
    on: str = "base"  # | "persona": the model whose activations directions are found on
    max_drift: float = 0.05  # of a concept's AUC, from that model to the other
    drift_texts: int = 100  # at most so many are read in the other model; 0: all
    target: str = "readout"


@dataclass(frozen=True)
class Link:
    """How task vectors are joined: a row of the method table, its overall factor, the other parameters stated.

    `adapter_rank`: the rank of a merged LoRA adapter beside the checkpoint, or None for no adapter.
    """

    where: str
    method: str
    lam: float
    params: Mapping[str, Any]
    adapter_rank: int | None = None
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Server:
    """How a memory server is asked; in no key. `fresh`: seconds for which a build takes its last answer without asking
    again (None: for ever). `timeout`: seconds to wait for one answer. `headers` of HTTP requests, with environment
    variables in them as ``$NAME``: what those hold is read when the server is asked, and kept nowhere."""

    fresh: float | None = 60.0
    timeout: float = 60.0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    """Where results are shared with other projects and machines; in no key."""

    where: str
    remote: str | None = None  # s3://bucket/prefix | gs://bucket/prefix | file:///folder
    readonly: bool = False


@dataclass(frozen=True)
class Persona:
    """The whole specification, resolved; paths are absolute, names are checked."""

    name: str
    file: Path
    root: Path
    base: Base
    graph: str
    neutral: Mapping[str, Any]
    tasks: tuple[Task, ...]
    steers: tuple[Steer, ...]
    readout: Readout | None
    link: Link
    cache: Cache
    server: Server = Server()
    gates: Mapping[str, float] = field(default_factory=dict)  # of the linked persona
    texts: Mapping[str, str] = field(default_factory=dict)  # what was read: "Personafile.toml", "recipes/NAME.toml"

    def outside(self) -> list[str]:
        """The paths of all that targets read beside the memory graph."""
        found = [self.base.path, *(task.checkpoint or task.adapter for task in self.tasks)]
        found += [task.chat.path if task.chat else task.examples for task in self.tasks]
        texts = [steer.texts for steer in self.steers] + [self.readout.texts if self.readout else None]
        found += [one.path for one in texts if one]
        return [path for path in found if path is not None]

    def linked(self) -> tuple[Task, ...]:
        """The tasks whose vectors reach the checkpoint, by name."""
        return tuple(t for t in sorted(self.tasks, key=lambda t: t.name) if t.name not in self.link.without)
